"""Exercises as content: the right answer, a blank line, and typical mistakes as edits of its text.

    old -> new        put `new` wherever `old` stands; `\\n` in either begins a new line
    name = ...        the line that sets `name` reads so
    anything else     the last line returns this; `right` is the course's own function
    edit ; edit       several at once

Below an edit, or several, stands indented what to say to who wrote it. "It looks as if" is left out there; a sentence
that begins otherwise is marked "! ".
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from textwrap import indent

EXERCISES: dict[str, "Exercise"] = {}  # filled by `ddpm_helpers.exercises`, which is imported when it is first needed


@dataclass(frozen=True)
class Exercise:
    """One exercise of one notebook; making one registers it under its reference's name."""

    tag: str  # "1.2": notebook 1, second exercise
    reference: Callable  # the right answer: a public function of the helper module
    cases: Callable[[], list[tuple]]  # argument tuples; make B, C, H and W all different
    table: str  # the answer as the text asks for it, and typical mistakes: see above
    names: dict = field(default_factory=dict)  # what else the table's functions see
    tolerance: float = 1e-5  # largest error allowed, relative to the largest expected value
    tolerance_64: float = 1e-9  # the same where the expected result is float64, or one number made of such arguments
    also: Callable[[Callable], str | None] = lambda answer: None  # answer with right values -> what else is wrong

    def __post_init__(self):
        EXERCISES[self.name] = self

    @property
    def name(self) -> str:
        return self.reference.__name__

    @property
    def body(self) -> str:
        return self.table.rpartition("\n\n")[0].strip()

    @cached_property
    def arguments(self) -> list[str]:
        """Those that the text asks for; the reference may have more, with defaults."""
        return list(inspect.signature(self.reference).parameters)[: len(self.cases()[0])]

    @cached_property
    def wrong(self) -> list[tuple[str, Callable]]:
        """Sentence and wrong function, for each edit of the table; ValueError where one changes or says nothing new."""
        found = []
        for edits, said in re.findall(r"((?:^\S.*\n)+)((?:^ .*\n)*)", self.table.rpartition("\n\n")[2], flags=re.M):
            said = " ".join(said.split())
            sentence = said[2:] if said.startswith("! ") else f"It looks as if {said}"
            if not said or sentence in dict(found):
                raise ValueError(f"{self.name}: no sentence, or one that stands above already, for {edits!r}")
            found += [(sentence, self.function(edited(self.body, edit))) for edit in edits.splitlines()]
        return found

    def function(self, body: str) -> Callable:
        """A function with this body that sees `names` and what the reference's module sees."""
        scope = {**vars(inspect.getmodule(self.reference)), **self.names, "right": self.reference}
        exec(self.written(body), scope)
        return scope[self.name]

    def written(self, body: str) -> str:
        """The text of a function with this body, as a notebook has it."""
        return f"def {self.name}({', '.join(self.arguments)}):\n{indent(body, '    ')}"


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
