"""Arithmetic and copying: questions that small models can answer, drawn from a seed, so that no
file is needed.

Each has examples before it and one right answer of a few tokens. A cut that keeps the words of a
story may lose these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from random import Random
from typing import NamedTuple

from sparsedash.catalog.drawn_questions import (
    Draw,
    a_sum,
    alphabet,
    capital,
    closing_brackets,
    counting_on,
    dates,
    digits_again,
    first_named,
    in_capitals,
    indentation,
    json_ends,
    json_keys,
    last_named,
    opposite,
    past_tense,
    plural_form,
    said_twice,
    words_again,
)
from sparsedash.schema.plain_values import digest

_SEED = 0


class DrawnQuestion(NamedTuple):
    """The text read, the answer that must follow it, and the kind of question."""

    context: str
    answer: str
    part: str


@dataclass(frozen=True, kw_only=True)
class BuiltinTask:
    """A task that ships. parts: draw a question each, in turn. n_questions: as many as decide its
    limit.

    points: the limit, in points of accuracy, that these are enough for. n_tokens: of a question and
    its answer.
    asked_once: no two questions end in the same line, whatever their examples.
    """

    name: str
    parts: dict[str, Draw]
    n_questions: int = 600
    points: float = 5.0
    n_tokens: int
    asked_once: bool = False

    def questions(self, limit: int | None = None) -> list[DrawnQuestion]:
        """The first of its questions, no two of them alike. limit: how many at most; None: all."""
        return _drawn(self.name)[:limit]

    def n_asked(self, limit: int | None) -> int:
        """Number of questions."""
        return min(limit or self.n_questions, self.n_questions)

    def identity(self, limit: int | None) -> str:
        """Digest of all that answers to these questions depend on."""
        return digest(["builtin", self.points, self.questions(limit)])


@cache
def _drawn(name: str) -> list[DrawnQuestion]:
    task = next(task for task in BUILTIN_TASKS.values() if task.name == name)
    return list(_draw(task))


def _draw(task: BuiltinTask) -> Iterator[DrawnQuestion]:
    random = Random(_SEED)
    seen = set[str]()
    for part, draw in cycle(task.parts.items()):
        context, answer = draw(random)
        while _distinct_part(task, context) in seen:
            context, answer = draw(random)
        seen.add(_distinct_part(task, context))
        yield DrawnQuestion(context, answer, part)
        if len(seen) == task.n_questions:
            return


def _distinct_part(task: BuiltinTask, context: str) -> str:
    return context.rpartition("\n")[2] if task.asked_once else context


BUILTIN_TASKS = {
    f"builtin:{task.name}": task
    for task in (
        BuiltinTask(
            name="arithmetic",
            parts={"sums": a_sum, "counting on": counting_on},
            n_tokens=27,
        ),
        BuiltinTask(
            name="copying",
            parts={"words": words_again, "digits": digits_again},
            n_tokens=34,
        ),
        BuiltinTask(
            name="brackets",
            parts={"brackets": closing_brackets, "indentation": indentation},
            n_tokens=40,
        ),
        BuiltinTask(
            name="json", parts={"keys": json_keys, "ends": json_ends}, n_tokens=60
        ),
        BuiltinTask(
            name="sequences", parts={"alphabet": alphabet, "dates": dates}, n_tokens=26
        ),
        BuiltinTask(
            name="facts",
            parts={
                "capitals": capital,
                "past tense": past_tense,
                "plurals": plural_form,
                "opposites": opposite,
            },
            n_questions=240,
            points=8.0,
            n_tokens=32,
            asked_once=True,
        ),
        BuiltinTask(
            name="instruction",
            parts={
                "capitals": in_capitals,
                "twice": said_twice,
                "first": first_named,
                "last": last_named,
            },
            n_tokens=34,
        ),
    )
}
"""By their references."""

DECIDING_TASKS = ("builtin:arithmetic", "builtin:copying")
"""What a run that is to decide begins with: each further task makes all intervals wider."""


def unknown_builtin(references: Sequence[str]) -> str:
    """Error in a reference to a built-in task that does not exist, or ""."""
    unknown = [
        task
        for task in references
        if task.startswith("builtin:") and task not in BUILTIN_TASKS
    ]
    return (
        f"There is no task {unknown[0][:200]}; built in: {', '.join(BUILTIN_TASKS)}."
        if unknown
        else ""
    )
