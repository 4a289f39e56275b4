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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CORE = ("schedule", "nets", "sampling", "losses", "train", "files", "data")
PARTS = {"Part I: from noise to a DDPM": range(14), "Part II: from the DDPM to today": range(14, 99)}
WIDGET = "application/vnd.jupyter.widget-view+json"
MATHJAX = ("tex-chtml.js", "input/tex/extensions/color.js", "output/chtml/fonts/woff-v2/*")
KNOWN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.reference, nodes.title, nodes.raw)

pictures = {}  # name of a picture's file -> its text, and its width on the page
places = {}  # an equation as "(2.4)", a word of the glossary, a word and the notebook of it -> page and anchor


# ---- what is on the site --------------------------------------------------------------------------------------------


def gather(app) -> None:
    """Copy notebooks, figures and docs to Sphinx's folder, in the course's own layout, and write index and core."""
    source = Path(app.srcdir)
    shutil.copytree(ROOT / "figures", source / "figures")
    shutil.copytree(ROOT / "docs" / "results", source / "docs" / "results")
    for page in ROOT.glob("docs/*.md"):
        shutil.copy(page, source / "docs")
    (source / "notebooks").mkdir()
    (source / "thumbs").mkdir()
    cards = {title: [] for title in (*PARTS, "To look things up")}
    for path in sorted(Path(app.config.notebooks).glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        part = next((title for title, numbers in PARTS.items() if int(path.name[:2]) in numbers), "To look things up")
        cards[part].append(card(path.stem, notebook, source / "thumbs"))
        for cell in notebook.cells:
            if cell.cell_type == "code":
                prepare(cell)
        nbformat.write(notebook, source / "notebooks" / path.name)
    index = (HERE / "index.md").read_text(encoding="utf-8")
    index = index.replace("<!-- notebooks -->", "\n".join(part_of_index(*part) for part in cards.items() if part[1]))
    if (ROOT / "build" / "play").is_dir():
        index = index.replace("<!-- play -->", '<a href="play/">A network that draws in this page</a>.')
    more = ["core", *(f"docs/{page.stem}" for page in sorted(ROOT.glob("docs/*.md")))]
    (source / "index.md").write_text(index + toctree("More", more), encoding="utf-8")
    modules = "\n\n".join(
        f"## {name}\n\n```{{eval-rst}}\n.. automodule:: ddpm_helpers.{name}\n   :members:\n```" for name in CORE
    )
    core = (HERE / "core.md").read_text(encoding="utf-8").replace("<!-- modules -->", modules)
    (source / "core.md").write_text(core, encoding="utf-8")
    hero(ROOT / "figures" / "08_reverse.gif", source / "hero.webp")


def toctree(caption: str, pages: list[str]) -> str:
    return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


def part_of_index(title: str, cards: list[tuple[str, str, str]]) -> str:
    pages = [f"{name[:2]} {heading} <notebooks/{name}>" for name, heading, _ in cards]
    texts = "".join(text for *_, text in cards)
    return f'## {title}\n\n<div class="cards">\n{texts}</div>\n{toctree(title, pages)}'


def card(name: str, notebook, thumbs: Path) -> tuple[str, str, str]:
    """Name and title of a notebook, and its card on the index: its first picture small, its time, its summary."""
    head, title = notebook.cells[0].source, build.title_of(notebook)
    picture = re.search(r"!\[[^]]*\]\(\.\./(figures/\S+)\)", head)
    if picture:
        thumbnail(ROOT / picture[1], thumbs / f"{name}.webp")
    image = f'<img src="thumbs/{name}.webp" alt="" width="240" height="150">' if picture else ""
    minutes = re.search(r"\*\*Time\*\*\s+(an\s+hour|\d+\s+minutes)", head)
    time = f" <small>{' '.join(minutes[1].split())}</small>" if minutes else ""
    text = re.sub(r"[*`$]", "", build.summary_of(notebook))
    link = f'<a href="notebooks/{name}.html">{name[:2]} {html.escape(title)}</a>'
    text = f"You will {html.escape(text[:1].lower() + text[1:])}"
    return name, title, f"<div>{image}<p><b>{link}</b></p><p>{text}</p><p>{time}</p></div>\n"


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


# ---- what a notebook shows -------------------------------------------------------------------------------------------


def prepare(cell) -> None:
    """Fold the set-up; give widgets a form that needs no kernel; note what each picture says and how wide it is."""
    if "setup" in cell.metadata.get("tags", []):
        cell.metadata.tags.append("hide-input")
    outputs = []
    for output in cell.outputs:
        data, about = output.get("data", {}), output.get("metadata", {})
        if kind := next((kind for kind in ("image/gif", "image/png") if kind in data), None):
            name = hashlib.sha256(b64decode(data[kind])).hexdigest()
            pictures[name] = about.get(kind, {})
        if WIDGET in data:
            del data[WIDGET]
            if question := re.match(r"Case (\d+):", data.get("text/plain", "")):
                output.data = nbformat.from_dict({"text/html": quiz_of(quiz.case(int(question[1])))})
        outputs.append(output)
        if frames := about.get("image/png", {}).get("frames"):
            html = f'<script type="application/json" class="frames">{json.dumps(frames)}</script>'
            outputs.append(nbformat.v4.new_output("display_data", {"text/html": html}))
    cell.outputs = outputs


def quiz_of(case) -> str:
    """A case of the clinic: each choice opens to what is said to it."""
    choices = "".join(
        f"<details{' data-right' * (letter == case.letter)}><summary>{letter}&ensp;{html.escape(text)}</summary>"
        f"<p>{html.escape(case.reply(letter))}</p></details>"
        for letter, text in case.choices.items()
    )
    return f'<div class="quiz"><p>Case {case.number}: what is wrong?</p>{choices}</div>'


# ---- where links land ------------------------------------------------------------------------------------------------


def mark(app, doctree) -> None:
    """Anchors for equations and words; texts, widths and kinds of pictures."""
    page = app.env.docname
    for formula in doctree.findall(nodes.math_block):
        if tag := re.search(r"\\tag\{([\d.]+)\}", formula.astext()):
            place(formula, f"({tag[1]})", page, f"equation-{tag[1]}")
    for word in doctree.findall(nodes.strong):
        place(word, (word.astext().lower(), page), page, "word-" + nodes.make_id(word.astext()))
    if page.endswith("99_glossary"):
        for row in doctree.findall(nodes.row):
            word = row.children[0].astext()
            place(row, word.lower(), page, "entry-" + nodes.make_id(word))
    for image in doctree.findall(nodes.image):
        file = Path(app.srcdir, image["uri"])
        if file.is_file():
            content = file.read_bytes()
            about = pictures.get(hashlib.sha256(content).hexdigest(), {})
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

    def to(target: tuple[str, str]) -> str:
        return app.builder.get_relative_uri(page, target[0]) + "#" + target[1]

    def linked(node, target: tuple[str, str]) -> None:
        node.replace_self(nodes.reference("", "", node.deepcopy(), refuri=to(target), internal=True))

    objects = app.env.domaindata["py"]["objects"].items()
    core = {name.rpartition(".")[2]: entry for name, entry in objects if entry.objtype in ("function", "class")}
    for reference in doctree.findall(nodes.reference):
        if reference.astext() in places:
            reference["refuri"] = to(places[reference.astext()])
        elif (row := parent(reference, nodes.row)) is not None and page.endswith("99_glossary"):
            notebook = f"notebooks/{Path(reference.get('refuri', '')).stem}"
            word = row.children[0].astext().lower()
            if (word, notebook) in places:
                reference["refuri"] = to(places[word, notebook])
    if not page.startswith("notebooks/"):
        return
    for node in list(doctree.findall(nodes.strong)):
        if node.astext().lower() in places and parent(node, KNOWN) is None:
            linked(node, places[node.astext().lower()])
    for node in list(doctree.findall(nodes.literal)):
        if (entry := core.get(re.match(r"\w*", node.astext())[0])) and parent(node, KNOWN) is None:
            linked(node, (entry.docname, entry.node_id))
    for node in list(doctree.findall(nodes.Text)):
        pieces = re.split(r"(\(\d+\.\d+\))", node.astext())
        if len(pieces) > 1 and parent(node, KNOWN) is None:
            new = [
                nodes.reference("", piece, refuri=to(places[piece]), internal=True)
                if piece in places
                else nodes.Text(piece)
                for piece in pieces
            ]
            node.parent.replace(node, new)


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


# ---- around a page ---------------------------------------------------------------------------------------------------


def head(app, page: str, template: str, context: dict, doctree) -> None:
    """A description, and, where the site has an address, a picture for those who link to it."""
    title = re.sub(r"<[^>]+>", "", context.get("title", ""))
    text = first_words(doctree) if doctree is not None else title
    tags = {"description": text, "og:title": title, "og:description": text, "og:type": "article"}
    if app.config.html_baseurl:
        tags["og:url"] = context.get("pageurl") or app.config.html_baseurl
        thumb = f"thumbs/{Path(page).name}.webp"
        tags["og:image"] = app.config.html_baseurl + (thumb if Path(app.srcdir, thumb).exists() else "hero.webp")
    context["metatags"] = context.get("metatags", "") + "".join(
        f'<meta {"name" if name == "description" else "property"}="{name}" content="{html.escape(value)}">\n'
        for name, value in tags.items()
    )


def first_words(doctree) -> str:
    paragraphs = [paragraph.astext() for paragraph in doctree.findall(nodes.paragraph)]
    text = next((text for text in paragraphs if text.startswith("You will")), paragraphs[0] if paragraphs else "")
    return " ".join(text.split())[:200]


def finish(app, error) -> None:
    """MathJax without what it can do beyond, the index's small pictures, and play.html where it was made."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None:
        raise ConfigError(
            "The package sphinx-mathjax-offline is missing, which holds MathJax: pip install -e '.[site]'"
        )
    here, there = Path(spec.origin).parent / "static" / "mathjax", Path(app.outdir, "_static", "mathjax")
    for file in (file for pattern in MATHJAX for file in here.glob(pattern)):
        (there / file.relative_to(here)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, there / file.relative_to(here))
    for unused in Path(app.outdir).rglob("*.map"):
        unused.unlink()
    shutil.copytree(Path(app.srcdir, "thumbs"), Path(app.outdir, "thumbs"))
    shutil.copy(Path(app.srcdir, "hero.webp"), app.outdir)
    if (ROOT / "build" / "play").is_dir():
        shutil.copytree(ROOT / "build" / "play", Path(app.outdir, "play"))


def setup(app) -> dict:
    app.add_config_value("notebooks", "", "env")
    for event, what in {
        "builder-inited": gather,
        "autodoc-process-docstring": plain,
        "doctree-read": mark,
        "doctree-resolved": link,
        "html-page-context": head,
        "build-finished": finish,
    }.items():
        app.connect(event, what)
    return {"parallel_read_safe": False}
