"""Typical mistakes as content: edits of the right answer's text, and below each the sentence that it earns.

    old -> new        put `new` wherever `old` stands; `\\n` in either begins a new line
    name = ...        the line that sets `name` reads so
    anything else     the last line returns this; `right` is the course's own function
    edit ; edit       several at once

A sentence, indented, begins with "It looks as if", which is left out here; one that begins otherwise is marked "! ".
"""

import ast
import inspect
import re
from collections.abc import Callable
from textwrap import dedent, indent


def mistakes(
    reference: Callable, answer: str, table: str, names: dict, asked: int | None = None
) -> dict[str, Callable]:
    """Sentence -> wrong function, for each block of the table; ValueError where a block changes or says nothing new."""
    found = {}
    for block in re.split(r"\n(?=\S)", dedent(table).strip()):
        edits, *lines = block.split("\n")
        said = " ".join(line.strip() for line in lines)
        sentence = said[2:] if said.startswith("! ") else f"It looks as if {said}"
        if not said or sentence in found:
            raise ValueError(f"{reference.__name__}: no sentence, or one that stands above already: {block!r}")
        found[sentence] = function(reference, edited(dedent(answer).strip(), edits), names, asked)
    return found


def function(reference: Callable, body: str, names: dict, asked: int | None = None) -> Callable:
    """A function with this body that sees `names` and what the reference's module sees."""
    scope = {**vars(inspect.getmodule(reference)), **names, "right": reference}
    exec(written(reference, body, asked), scope)
    return scope[reference.__name__]


def written(reference: Callable, body: str, asked: int | None = None) -> str:
    """The text of a function with the reference's first `asked` arguments, as a notebook has it."""
    arguments = list(inspect.signature(reference).parameters)[:asked]
    return f"def {reference.__name__}({', '.join(arguments)}):\n{indent(body, '    ')}"


def plain_body(reference: Callable) -> str:
    """The text of a function below its docstring and its checks of arguments."""
    source = dedent(inspect.getsource(reference))
    [node] = ast.parse(source).body
    first = next(line for line in node.body[bool(ast.get_docstring(node)) :] if not _is_check(line))
    return dedent("\n".join(source.splitlines()[first.lineno - 1 :]))


def _is_check(line: ast.stmt) -> bool:
    """A call of `_check...`, or an `if` that only raises."""
    if isinstance(line, ast.If):
        return isinstance(line.body[0], ast.Raise)
    return isinstance(line, ast.Expr) and ast.unparse(line).startswith("_check")


def edited(body: str, edits: str) -> str:
    """The answer's text after some edits, each of which must change it."""
    for edit in edits.split(" ; "):
        before, (old, arrow, new) = body, (edit + " ").partition(" -> ")
        if arrow:
            body = body.replace(*(part.strip().replace("\\n", "\n") for part in (old, new)))
        elif name := re.match(r"[\w, ]+? = ", edit):
            body = re.sub(rf"^( *){re.escape(name[0])}.*$", lambda line, new=edit: line[1] + new, body, flags=re.M)
        else:
            body = re.sub(r".*\Z", lambda _, new=edit: f"return {new}", body, count=1)
        if body == before:
            raise ValueError(f"{edit!r} changes nothing in\n{body}")
    return body
