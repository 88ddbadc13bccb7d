"""OpenCompass: the JSON in its folder `results/MODEL`, with the details of each answer.

Where the evaluator gives none, OpenCompass writes answer and reference without saying which is right;
those are read if the share of equal ones is the accuracy that the file states.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import QuestionSet
from sparsedash.storage.answers.parsed_answers import (
    Declared,
    ParsedAnswer,
    begins_with,
    checked_answers,
    json_document,
    parsed_answer,
    question_set,
    sha256_of,
)

_BEGINNING = (
    rb'"details"\s*:\s*(\{\s*"type"\s*:\s*"(GEN|PPL)"|\[\s*\{\s*"example_abbr")'
)
_RIGHT = ("correct", "is_correct")
_ANSWERS = ("pred", "predictions")
_TARGETS = ("answer", "answers", "refr", "references")
_MEASURE = "accuracy"
_CLOSE_POINTS = 0.006
"""Percentage points by which a stated accuracy, rounded to two digits, may be off."""


@dataclass(kw_only=True)
class _File:
    details: dict[str, Any] | list[Any]
    accuracy: float | None = None


def is_opencompass_results(file: Path) -> bool:
    """Whether a file begins as OpenCompass's results with details do."""
    return begins_with(file, _BEGINNING)


def results_folder(file: Path) -> Path:
    """The folder named after the model."""
    return file.absolute().parent


def read_opencompass_results(files: Sequence[Path]) -> Iterator[QuestionSet]:
    """A set a file. Raises CorpusError."""
    for file in files:
        yield _read_file(file)


def _read_file(file: Path) -> QuestionSet:
    document = json_document(file, _File)
    omitted = Counter[str]()
    n_stated = 0

    def read(item: tuple[str, Any]) -> ParsedAnswer:
        nonlocal n_stated
        name, detail = item
        values, n_runs = _first_run(detail)
        if n_runs > 1:
            omitted["of later runs"] += n_runs - 1
        n_stated += any(key in values for key in _RIGHT)
        return _answer(values, name)

    details = _named_details(document.details)
    answers = list(checked_answers(details, file.name, "Answer", read))
    if n_stated not in (0, len(answers)):
        n_without = len(answers) - n_stated
        raise CorpusError(
            f"{file.name} does not say of {n_without:,} of {len(answers):,} answers whether they are right."
        )
    if answers and not n_stated:
        share = sum(answer.right[_MEASURE] for answer in answers) / len(answers)
        stated = document.accuracy
        if stated is None or abs(100 * share - stated) > _CLOSE_POINTS:
            raise CorpusError(
                f"{file.name} does not say which answers are right: {100 * share:.2f} % are equal to the reference, "
                f"and its accuracy is {stated}.",
                "Use an evaluator of OpenCompass that gives details.",
            )
    declared = Declared(task=file.stem, higher_is_better={_MEASURE: True})
    return question_set(
        answers, file.name, results_folder(file).name, declared, omitted
    )


def _named_details(
    details: Mapping[str, Any] | Sequence[Any],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What is known of each answer, after its name in the file."""
    if isinstance(details, Mapping):
        for place, detail in details.items():
            if place != "type":
                yield place, detail
        return
    for detail in details:
        yield str(detail["example_abbr"]), detail


def _first_run(detail: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The values of the first of an answer's runs, and how many there are.

    An evaluator's own details come as lists, a value a run.
    """
    if "example_abbr" not in detail:
        return dict(detail), 1
    values = {}
    n_runs = set[int]()
    for name, value in detail.items():
        if isinstance(value, list):
            n_runs.add(len(value))
            values[name] = value[0]
    if len(n_runs) != 1:
        raise CorpusError("its values are of different numbers of runs")
    return values, n_runs.pop()


def _answer(values: Mapping[str, Any], name: str) -> ParsedAnswer:
    answer = _value_of(values, _ANSWERS)
    target = _value_of(values, _TARGETS)
    prompt = _text(values.get("prompt") or "")
    right = next((values[key] for key in _RIGHT if key in values), None)
    if right is None:
        right = answer == target
    if not isinstance(right, bool):
        raise CorpusError(f"{str(right)[:40]!r} is neither right nor wrong")
    # By its place a question asked in several runs would count as several.
    about = f"{prompt}\n{target}" if prompt else name
    question = {
        "doc_hash": sha256_of(about),
        "prompt_hash": sha256_of(prompt),
        "target_hash": sha256_of(target),
        "context": prompt,
        "target": target,
        "fields": {} if prompt else {"id": name[:100]},
        "text": _text(values.get("origin_prediction", answer)),
        "answer": answer,
    }
    return parsed_answer({_MEASURE: right}, question, None)


def _value_of(values: Mapping[str, Any], names: Sequence[str]) -> str:
    for name in names:
        if name in values:
            return _text(values[name])
    raise CorpusError(f"it has none of {', '.join(names)}")


def _text(value: Any) -> str:
    """A text as it is; of messages or several references, all."""
    return value if isinstance(value, str) else str(value)
