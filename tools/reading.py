"""How long a notebook is to read: one count of its words, one formula for minutes."""

import re

from nbformat import NotebookNode

DROPPED = (
    r"```.*?```|`[^`]*`",  # code
    r"\$\$.*?\$\$|\$[^$]*\$",  # formulas
    r"<[^>]*>",  # tags
    r"(?<=\])\([^)]*\)",  # targets of links
)


def prose(notebook: NotebookNode) -> str:
    """The text of a notebook outside code, formulas, targets of links, and tags."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for pattern in DROPPED:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return text


def words(notebook: NotebookNode) -> int:
    return len(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", prose(notebook)))


def minutes(notebook: NotebookNode) -> int:
    """One sitting: 180 words a minute, 2 minutes for each numbered equation, 8 for each exercise."""
    equations = sum(cell.source.count(r"\tag{") for cell in notebook.cells if cell.cell_type == "markdown")
    exercises = sum("exercise" in cell.metadata.get("tags", []) for cell in notebook.cells)
    return round(words(notebook) / 180 + 2 * equations + 8 * exercises)
