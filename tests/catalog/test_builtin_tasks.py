"""The built-in questions: alike everywhere, no two the same, each with its answer."""

import ast
import calendar
import csv
import json
import re
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from sparsedash.catalog import builtin_tasks
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS


def test_the_questions_are_alike_on_every_machine():
    """Another order of what is drawn would be another task under the same name: two machines could
    not be compared.
    """
    assert [task.identity(None)[:8] for task in BUILTIN_TASKS.values()] == [
        *(
            "ed34dff0",
            "fd921492",
            "4642f950",
            "54c45d6a",
            "2164ec58",
            "1e88629e",
            "06ab8556",
        )
    ]


@pytest.mark.parametrize("task", BUILTIN_TASKS.values(), ids=BUILTIN_TASKS)
def test_a_limit_takes_the_first_and_no_two_are_the_same(task):
    questions = task.questions()
    assert (
        len({question.context for question in questions})
        == len(questions)
        == task.n_questions
    )
    assert (
        task.questions(5) == questions[:5]
        and task.n_asked(5) == 5
        and task.identity(5) != task.identity(None)
    )
    assert {question.part for question in questions[: len(task.parts)]} == set(
        task.parts
    )


def sums(text, _):
    for line in text.splitlines():
        a, b, c = map(int, re.findall(r"\d+", line))
        assert a + b == c


def counting_on(text, _):
    row = [int(word) for word in text.split(",")]
    assert len({b - a for a, b in pairwise(row)}) == 1


def the_same_again(text, _):
    assert all(len(set(line.split(" = "))) == 1 for line in text.splitlines())


def lines_of_code(text, _):
    for line in text.splitlines():
        ast.parse(line)


def what_was_computed_is_returned(text, _):
    for function in ast.parse(f"{text}\n").body:
        computed, returned = function.body
        assert returned.value.id == computed.targets[0].id


def the_same_keys(text, _):
    first, second, begun = text.splitlines()
    assert (
        list(json.loads(first))
        == list(json.loads(second))
        == list(json.loads(begun + " 0}"))
    )


def lines_of_json(text, _):
    for line in text.splitlines():
        json.loads(line)


def the_next_letter(text, _):
    letters = [ord(letter.strip()) for letter in text.split(",")]
    assert {b - a for a, b in pairwise(letters)} == {1}


def the_next_date(text, _):
    row = [part.strip() for part in text.split(",")]
    if "-" in row[0]:
        days = [date.fromisoformat(day).toordinal() for day in row]
    elif " " in row[0]:
        assert len({day.split()[1] for day in row}) == 1
        days = [int(day.split()[0]) for day in row]
    else:
        names = DAYS if row[0] in DAYS else list(calendar.month_name)[1:]
        days = [names.index(name) for name in row]
        assert {(b - a) % len(names) for a, b in pairwise(days)} == {1}
        return
    assert {b - a for a, b in pairwise(days)} == {1}


def a_known_fact(text, answer):
    subjects = re.findall(r"(?:of|One|I) ([\w ]+?)(?: is|,|\.)", text.splitlines()[-1])
    assert (subjects[0], answer.strip()) in FACTS


def capital_letters(text, answer):
    (word,) = re.findall(r"Write (\w+) in", text.splitlines()[-1])
    assert answer == f" {word.upper()}"


def twice(text, answer):
    (word,) = re.findall(r"Say (\w+) twice", text.splitlines()[-1])
    assert answer == f" {word} {word}"


def named(text, answer):
    ((place, first, last),) = re.findall(
        r"the (\w+) of (\w+), \w+ and (\w+):", text.splitlines()[-1]
    )
    expected = first if place == "first" else last
    assert answer == f" {expected}"


CHECKS = {
    "arithmetic": [sums, counting_on],
    "copying": [the_same_again, the_same_again],
    "brackets": [lines_of_code, what_was_computed_is_returned],
    "json": [the_same_keys, lines_of_json],
    "sequences": [the_next_letter, the_next_date],
    "facts": [a_known_fact] * 4,
    "instruction": [capital_letters, twice, named, named],
}
DAYS = list(calendar.day_name)
with (Path(builtin_tasks.__file__).parent / "texts" / "facts.csv").open() as file:
    FACTS = {(row["subject"], row["answer"]) for row in csv.DictReader(file)}


@pytest.mark.parametrize("task", BUILTIN_TASKS.values(), ids=BUILTIN_TASKS)
def test_every_answer_is_right(task):
    checks = dict(zip(task.parts, CHECKS[task.name], strict=True))
    for question in task.questions():
        checks[question.part](question.context + question.answer, question.answer)


def test_the_facts_are_facts():
    known = [
        ("France", "Paris"),
        ("go", "went"),
        ("mouse", "mice"),
        ("hot", "cold"),
        ("Nigeria", "Abuja"),
    ]
    assert FACTS.issuperset(known) and len(FACTS) == 255
    # No question is asked twice with other examples.
    request = [
        question.context.splitlines()[-1]
        for question in BUILTIN_TASKS["builtin:facts"].questions()
    ]
    assert len(set(request)) == len(request)
