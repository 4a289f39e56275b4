"""What the site does beyond Sphinx: it gathers the pages, and makes links land. An extension, loaded by ../conf.py."""

import hashlib
import html
import importlib.util
import json
import re
import shutil
from base64 import b64decode
from pathlib import Path

import nbformat
import numpy as np
from docutils import nodes
from PIL import Image
from sphinx.errors import ConfigError

import build
from ddpm_helpers.lessons import quiz

ROOT = Path(__file__).resolve().parent.parent.parent
CORE = ("schedule", "nets", "sampling", "losses", "train", "files", "data")
PARTS = {
    "Part I: from noise to a DDPM": range(14),
    "Part II: from the DDPM to today": range(14, 99),
    "To look things up": range(99, 100),
}
MATHJAX = ("tex-chtml.js", "input/tex/extensions/color.js", "output/chtml/fonts/woff-v2/*")
MODULE = "## {0}\n\n```{{eval-rst}}\n.. automodule:: ddpm_helpers.{0}\n   :members:\n```\n"
KNOWN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.reference, nodes.title, nodes.raw)

pictures = {}  # hash of a picture -> its text, and its width on the page
places = {}  # an equation as "(2.4)", a word of the glossary, a word and the page of it -> page and anchor


def gather(app) -> None:
    """Copy notebooks, figures and docs to Sphinx's folder, in the course's own layout, and write index and core.

    What lies in `extra` there, Sphinx copies to the site as it is.
    """
    source, extra = Path(app.srcdir), Path(app.srcdir, "extra")
    app.config.html_extra_path = [str(extra)]
    copy_mathjax(extra / "_static" / "mathjax")
    shutil.copytree(ROOT / "figures", source / "figures")
    shutil.copytree(ROOT / "docs" / "results", source / "docs" / "results")
    docs = [shutil.copy(page, source / "docs") for page in sorted(ROOT.glob("docs/*.md"))]
    index, core = ((ROOT / "docs" / "site" / name).read_text(encoding="utf-8") for name in ("index.md", "core.md"))
    if (ROOT / "build" / "play").is_dir():
        shutil.copytree(ROOT / "build" / "play", extra / "play")
        index += '\nOr <a href="play/play.html">let a network draw</a>, here in the browser.\n'
    (source / "notebooks").mkdir()
    (extra / "thumbs").mkdir()
    for part, numbers in PARTS.items():
        cards, pages = "", []
        for path in sorted(Path(app.config.notebooks).glob("*.ipynb")):
            if int(path.name[:2]) in numbers:
                notebook = nbformat.read(path, as_version=4)
                cards += card(path.stem, notebook, extra / "thumbs")
                pages.append(f"{path.name[:2]} {build.title_of(notebook)} <notebooks/{path.stem}>")
                for cell in notebook.cells:
                    if cell.cell_type == "code":
                        prepare(cell)
                nbformat.write(notebook, source / "notebooks" / path.name)
        index += f'\n## {part}\n\n<div class="cards">\n{cards}</div>\n{toctree(part, pages)}' if pages else ""
    index += toctree("More", ["core", *(f"docs/{Path(page).stem}" for page in docs)])
    (source / "index.md").write_text(index, encoding="utf-8")
    (source / "core.md").write_text(core + "\n".join(map(MODULE.format, CORE)), encoding="utf-8")
    hero(ROOT / "figures" / "08_reverse.gif", source / "hero.webp")


def copy_mathjax(target: Path) -> None:
    """What pages load of MathJax, 2 of 24 MB."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None:
        raise ConfigError("The package sphinx-mathjax-offline, which holds MathJax, is missing: pip install '.[site]'")
    source = Path(package.origin).parent / "static" / "mathjax"
    for file in (file for pattern in MATHJAX for file in source.glob(pattern)):
        (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target / file.relative_to(source))


def toctree(caption: str, pages: list[str]) -> str:
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def card(name: str, notebook, thumbs: Path) -> str:
    """What the index says of a notebook: its first picture, small, its summary and its time."""
    head, image = notebook.cells[0].source, ""
    if picture := re.search(r"!\[[^]]*\]\(\.\./(figures/\S+)\)", head):
        thumbnail(ROOT / picture[1], thumbs / f"{name}.webp")
        image = f'<img src="thumbs/{name}.webp" alt="" width="240" height="150">'
    time = re.search(r"\*\*Time\*\*\s+(an\s+hour|\d+\s+minutes)", head)
    text = re.sub(r"[*`$]", "", build.summary_of(notebook))
    link = f'<a href="notebooks/{name}.html">{name[:2]} {html.escape(build.title_of(notebook))}</a>'
    text = f"You will {html.escape(text[:1].lower() + text[1:])}"
    return f"<div>{image}<p><b>{link}</b></p><p>{text}</p><p><small>{time[1] if time else ''}</small></p></div>\n"


def thumbnail(picture: Path, target: Path) -> None:
    """The upper left of a picture, 240 x 150, of a moving one the last frame."""
    image = Image.open(picture)
    image.seek(getattr(image, "n_frames", 1) - 1)
    image = image.convert("RGB")
    height = min(image.height, round(image.width / 1.6))
    image.crop((0, 0, round(1.6 * height), height)).resize((240, 150), Image.Resampling.LANCZOS).save(target)


def hero(gif: Path, target: Path) -> None:
    """The moving picture of the index in a quarter of the bytes: its upper half, every other frame."""
    image, frames, times = Image.open(gif), [], []
    for i in range(0, image.n_frames, 2):
        image.seek(i)
        frames.append(image.convert("RGB").crop((0, 0, image.width, image.height // 2)))
        times.append(2 * image.info["duration"])
    frames[0].save(target, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=40)


def prepare(cell) -> None:
    """Fold the set-up; give widgets a form that needs no kernel; note what each picture says and how wide it is."""
    if "setup" in cell.metadata.get("tags", []):
        cell.metadata.tags.append("hide-input")
    outputs = []
    for output in cell.outputs:
        data, about = output.get("data", {}), output.get("metadata", {})
        for kind in {"image/gif", "image/png"} & data.keys():
            pictures[hashlib.sha256(b64decode(data[kind])).hexdigest()] = about.get(kind, {})
        outputs.append(output)
        if data.pop("application/vnd.jupyter.widget-view+json", None):
            if question := re.match(r"Case (\d+):", data["text/plain"]):
                data["text/html"] = quiz_of(quiz.case(int(question[1])))
            if frames := about.get("image/png", {}).get("frames"):
                text = f'<script type="application/json" class="frames">{json.dumps(frames)}</script>'
                outputs.append(nbformat.v4.new_output("display_data", {"text/html": text}))
    cell.outputs = outputs


def quiz_of(case) -> str:
    """A case of the clinic: each choice opens to what is said to it."""
    choices = "".join(
        f"<details{' data-right' * (letter == case.letter)}><summary>{letter}&ensp;{html.escape(text)}</summary>"
        f"<p>{html.escape(case.reply(letter))}</p></details>"
        for letter, text in case.choices.items()
    )
    return f'<div class="quiz"><p>Case {case.number}: what is wrong?</p>{choices}</div>'


def mark(app, doctree) -> None:
    """Anchors for equations and words; texts, widths and kinds of pictures."""
    page = app.env.docname
    for formula in doctree.findall(nodes.math_block):
        if tag := re.search(r"\\tag\{([\d.]+)\}", formula.astext()):
            place(formula, f"({tag[1]})", page, f"equation-{tag[1]}")
        if r"\begin{aligned}" in formula.astext():  # Sphinx would put it into a `split`, in which no \tag may stand
            formula["no-wrap"], formula[:] = True, [nodes.Text(rf"\[{formula.astext()}\]")]
    for word in doctree.findall(nodes.strong):
        place(word, (word.astext().lower(), page), page, "word-" + nodes.make_id(word.astext()))
    if page.endswith("99_glossary"):
        for row in doctree.findall(nodes.row):
            word = row.children[0].astext()
            place(row, word.lower(), page, "entry-" + nodes.make_id(word))
    for image in doctree.findall(nodes.image):
        file = Path(app.srcdir, image["uri"])
        about = pictures.get(hashlib.sha256(file.read_bytes()).hexdigest(), {})
        image.setdefault("alt", about.get("alt", ""))
        if "width" in about:
            image["width"] = f"{about['width']}px"
        grey = np.asarray(Image.open(file).convert("L"))
        if (grey > 250).mean() > 0.6 and (grey < 30).mean() < 0.05:  # mostly paper, and no black squares on it
            image["classes"].append("chart")


def place(node, what, page: str, anchor: str) -> None:
    if what not in places and not anchor.endswith("-"):
        node["ids"].append(anchor)
        places[what] = page, anchor


def link(app, doctree, page: str) -> None:
    """Let "(2.4)" lead to the equation, bold words to the glossary and back, names of the core to their page."""

    def address(target: tuple[str, str]) -> str:
        return f"{app.builder.get_relative_uri(page, target[0])}#{target[1]}"

    def to(target: tuple[str, str], child) -> nodes.reference:
        return nodes.reference("", "", child, refuri=address(target), internal=True)

    glossary = page.endswith("99_glossary")
    for node in doctree.findall(nodes.reference):
        target = places.get(node.astext())
        if glossary and not target and (row := parent(node, nodes.row)):
            word, notebook = row.children[0].astext().lower(), Path(node.get("refuri", "")).stem
            target = places.get((word, f"notebooks/{notebook}"))
        if target:
            node["refuri"] = address(target)
    objects = app.env.domaindata["py"]["objects"].items()
    core = {name.rpartition(".")[2]: entry for name, entry in objects if entry.objtype in ("function", "class")}
    for node in list(doctree.findall(lambda node: isinstance(node, nodes.strong | nodes.literal | nodes.Text))):
        if parent(node, KNOWN):
            continue
        text = node.astext()
        if isinstance(node, nodes.strong) and text.lower() in places and not glossary:
            node.replace_self(to(places[text.lower()], node.deepcopy()))
        elif isinstance(node, nodes.literal) and (entry := core.get(re.match(r"\w*", text)[0])):
            node.replace_self(to((entry.docname, entry.node_id), node.deepcopy()))
        elif isinstance(node, nodes.Text) and len(pieces := re.split(r"(\(\d+\.\d+\))", text)) > 1:
            texts = [(piece, nodes.Text(piece)) for piece in pieces]
            node.parent.replace(node, [to(places[piece], text) if piece in places else text for piece, text in texts])


def parent(node, kind):
    """The nearest node of a kind around this one, or None."""
    node = node.parent
    while node is not None and not isinstance(node, kind):
        node = node.parent
    return node


def plain(app, what, name, thing, options, lines: list[str]) -> None:
    """The core's docstrings are text with code in backticks; Sphinx's markup wants stars and plurals marked."""
    for i, line in enumerate(lines):
        pieces = re.split(r"(`[^`]+`)", line)
        pieces[::2] = [re.sub(r"(?<!\\)\*", r"\\*", piece) for piece in pieces[::2]]
        lines[i] = re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", "".join(pieces))


def head(app, page: str, template: str, context: dict, doctree) -> None:
    """A description, and, where the site has an address, a picture for those who link to it."""
    title = re.sub(r"<[^>]+>", "", context.get("title", ""))
    texts = [text.astext() for text in doctree.findall(nodes.paragraph)] if doctree else []
    text = next((text for text in texts if text.startswith("You will")), next(filter(None, texts), title))
    tags = {"og:title": title} | dict.fromkeys(("description", "og:description"), " ".join(text.split())[:200])
    if base := app.config.html_baseurl:
        thumb = f"thumbs/{Path(page).name}.webp"
        tags["og:image"] = base + (thumb if Path(app.srcdir, "extra", thumb).exists() else "_images/hero.webp")
    context.setdefault("metatags", "")
    for name, value in tags.items():
        context["metatags"] += f'<meta name="{name}" property="{name}" content="{html.escape(value)}">\n'


def setup(app) -> dict:
    app.add_config_value("notebooks", "", "env")
    app.connect("builder-inited", gather)
    app.connect("autodoc-process-docstring", plain)
    app.connect("doctree-read", mark)
    app.connect("doctree-resolved", link)
    app.connect("html-page-context", head)
    return {"parallel_read_safe": False}
