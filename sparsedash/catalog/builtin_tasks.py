"""Arithmetic and copying: questions that small models can answer, drawn from a seed, so that no file is needed.

Each has examples before it and one right answer of a few tokens. A cut that keeps the words of a story may lose these.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from random import Random
from typing import NamedTuple

from sparsedash.schema.plain_values import digest

_SEED = 0
_WORDS = (
    *("apple", "basket", "bread", "bridge", "button", "candle", "chair", "cloud", "forest", "garden"),
    *("lemon", "mirror", "paper", "river", "stone", "window"),
)
_PAIRS = [(a, b) for a in range(1, 10) for b in range(1, 10)]


class DrawnQuestion(NamedTuple):
    """What is read, the answer that must follow it, and the kind of question."""

    context: str
    answer: str
    part: str


def _sum(random: Random) -> tuple[str, str]:
    """The sum of two digits, after three others."""
    *examples, (a, b) = random.sample(_PAIRS, 4)
    return "".join(f"{x} + {y} = {x + y}\n" for x, y in examples) + f"{a} + {b} =", f" {a + b}"


def _counting_on(random: Random) -> tuple[str, str]:
    """The next number of a row."""
    first, step = random.randint(1, 80), random.choice((1, 2, 3, 5, 10))
    return ", ".join(str(first + step * i) for i in range(5)) + ",", f" {first + step * 5}"


def _words(random: Random) -> tuple[str, str]:
    """Four words again, after two examples."""
    return _again([" ".join(random.sample(_WORDS, 4)) for _ in range(3)])


def _digits(random: Random) -> tuple[str, str]:
    """Eight digits again, after an example."""
    return _again(["".join(str(random.randint(0, 9)) for _ in range(8)) for _ in range(2)])


def _again(lines: list[str]) -> tuple[str, str]:
    *examples, asked = lines
    return "".join(f"{line} = {line}\n" for line in examples) + f"{asked} =", f" {asked}"


@dataclass(frozen=True, kw_only=True)
class BuiltinTask:
    """A task that ships. parts: draw a question each, in turn. n_questions: as many as decide its limit.

    points: the limit, in points of accuracy, that these are enough for. n_tokens: of a question and its answer.
    """

    name: str
    parts: dict[str, Callable[[Random], tuple[str, str]]]
    n_questions: int = 600
    points: float = 5.0
    n_tokens: int

    def questions(self, limit: int | None = None) -> list[DrawnQuestion]:
        """The first of its questions, no two of them alike. limit: how many at most; None: all."""
        return _drawn(self.name)[:limit]

    def n_asked(self, limit: int | None) -> int:
        """How many questions that is."""
        return min(limit or self.n_questions, self.n_questions)

    def identity(self, limit: int | None) -> str:
        """Digest of all that answers to these questions depend on."""
        return digest(["builtin", self.points, self.questions(limit)])


@cache
def _drawn(name: str) -> list[DrawnQuestion]:
    task = next(task for task in BUILTIN_TASKS.values() if task.name == name)
    return list(_draw(task))


def _draw(task: BuiltinTask) -> Iterator[DrawnQuestion]:
    random, seen = Random(_SEED), set[str]()
    for part, draw in cycle(task.parts.items()):
        context, answer = draw(random)
        while context in seen:
            context, answer = draw(random)
        seen.add(context)
        yield DrawnQuestion(context, answer, part)
        if len(seen) == task.n_questions:
            return


BUILTIN_TASKS = {
    f"builtin:{task.name}": task
    for task in (
        BuiltinTask(name="arithmetic", parts={"sums": _sum, "counting on": _counting_on}, n_tokens=27),
        BuiltinTask(name="copying", parts={"words": _words, "digits": _digits}, n_tokens=34),
    )
}
"""By their references."""


def unknown_builtin(references: Sequence[str]) -> str:
    """What is wrong with a reference that names a built-in task there is not; empty where there is none."""
    unknown = [each for each in references if each.startswith("builtin:") and each not in BUILTIN_TASKS]
    return f"There is no task {unknown[0][:200]}; built in: {', '.join(BUILTIN_TASKS)}." if unknown else ""
