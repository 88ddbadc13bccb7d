"""The built-in questions: alike everywhere, no two the same, each with its answer."""

import re
from itertools import pairwise

import pytest

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS


def test_the_questions_are_alike_on_every_machine():
    """Another order of what is drawn would be another task under the same name: two machines could not be compared."""
    assert [task.identity(None)[:8] for task in BUILTIN_TASKS.values()] == ["ed34dff0", "fd921492"]


@pytest.mark.parametrize("task", BUILTIN_TASKS.values(), ids=BUILTIN_TASKS)
def test_a_limit_takes_the_first_and_no_two_are_the_same(task):
    asked = task.questions()
    assert len({question.context for question in asked}) == len(asked) == task.n_questions
    assert task.questions(5) == asked[:5] and task.n_asked(5) == 5 and task.identity(5) != task.identity(None)
    assert {question.part for question in asked[:2]} == set(task.parts)


def test_every_answer_is_right():
    for context, answer, part in (question for task in BUILTIN_TASKS.values() for question in task.questions()):
        match part:
            case "sums":
                for line in f"{context}{answer}".splitlines():
                    a, b, c = map(int, re.findall(r"\d+", line))
                    assert a + b == c
            case "counting on":
                row = [int(word) for word in f"{context}{answer}".split(",")]
                assert len({b - a for a, b in pairwise(row)}) == 1
            case _:
                assert all(len(set(line.split(" = "))) == 1 for line in f"{context}{answer}".splitlines())
