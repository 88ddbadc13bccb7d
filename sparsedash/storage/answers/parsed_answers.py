"""Answers read from a file of any program: their checks, and the set of one task.

Nothing in a file is trusted: sizes are limited, and an entry that is not as it should be is named by
its number.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sparsedash.schema.errors import CorpusError, first_line
from sparsedash.schema.question_records import (
    AnsweredQuestion,
    QuestionSet,
    known_direction,
)
from sparsedash.storage.answers.scored_choices import ScoredChoices, chosen_place

T = TypeVar("T")

MAX_BYTES = 2_000_000_000
"""Of all files of one model: MMLU with five examples before each question is a tenth of that."""
MAX_LINE_BYTES = 32_000_000
MAX_JSON_BYTES = 500_000_000
"""Of a file that is decoded as a whole."""
_HEAD_BYTES = 4_000

_POOLED = (
    *(
        "mmlu_flan_n_shot_generative",
        "mmlu_flan_n_shot_loglikelihood",
        "mmlu_flan_cot_zeroshot",
    ),
    *("mmlu_flan_cot_fewshot", "mmlu_llama", "mmlu_redux", "mmlu_pro", "mmlu", "cmmlu"),
    *("bbh_cot_fewshot", "bbh_cot_zeroshot", "bbh_fewshot", "bbh_zeroshot", "bbh"),
    *("agieval", "blimp", "minerva_math", "hendrycks_math", "ceval-valid", "ceval"),
)
"""Tasks of many small ones, which are judged as one, the longest names first; lighteval writes them
with a colon.
"""
_FORMS = ("_continuation", "_generative")
"""Other forms of such a task, at the end of its parts' names."""

_PREFERRED = ("exact_match", "acc_norm", "acc")
LONGEST_FIELD = 100
MAX_FIELDS = 20
_PASSAGES = ("passage", "context", "article", "story", "paragraph")
"""Fields of a document with a text that several questions may be about."""
_SHORTEST_PASSAGE = 80
_CLUSTER_DIGITS = 16
UNREADABLE = (
    *(
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ),
    *(CorpusError, msgspec.MsgspecError),
)


@dataclass(slots=True)
class ParsedAnswer:
    """One line. right: whether each measure that is 0 or 1 is 1. question: without what the measure
    says.
    """

    filter: str
    right: dict[str, bool]
    question: AnsweredQuestion
    choices: ScoredChoices | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """What a file, or the results that come with it, say of a task. task: its whole name.
    higher_is_better: by measure.
    """

    task: str
    version: str = ""
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    delimiter: str = " "


def question_set(
    answers: Iterable[ParsedAnswer],
    source: str,
    model: str,
    declared: Declared,
    omitted: Mapping[str, int] | None = None,
) -> QuestionSet:
    """The set of one task. source: the name of its file. omitted: as in QuestionSet, of answers that
    the reader has left out. Raises CorpusError.
    """
    kept: list[ParsedAnswer] = []
    for answer in answers:
        if not kept or answer.filter == kept[0].filter:
            kept.append(answer)
    if not kept:
        raise CorpusError(f"{source} holds no answers.")
    name = declared.task
    measure = _measure(kept, source)
    higher = None
    if kept[0].question.kind != "rolling":
        higher = known_direction(name, measure, declared.higher_is_better.get(measure))
    task, part = _parts(name)
    return QuestionSet(
        model=model,
        task=task,
        version=declared.version,
        measure=measure,
        higher_is_better=higher,
        filter=kept[0].filter,
        questions=tuple(
            _question(answer, measure, higher is False, part) for answer in kept
        ),
        omitted=dict(omitted or {}),
    )


def _parts(name: str) -> tuple[str, str]:
    """The pooled task, with its form and lighteval's number of examples; and the part, or ""."""
    task, bar, n_examples = name.partition("|")
    form = next(filter(task.endswith, _FORMS), "")
    for group in _POOLED:
        if task == group:
            break
        if task.startswith((f"{group}_", f"{group}:")):
            return f"{group}{form}{bar}{n_examples}", task[
                len(group) + 1 :
            ].removesuffix(form)
    return name, ""


def _measure(answers: Sequence[ParsedAnswer], source: str) -> str:
    """The preferred measure of those that every answer has."""
    if answers[0].question.kind == "rolling":
        return "bits a byte"
    shared = set(answers[0].right).intersection(*(answer.right for answer in answers))
    for name in (*_PREFERRED, *answers[0].right):
        if name in shared:
            return name
    raise CorpusError(
        f"{source} has no measure by which every answer is right or wrong."
    )


def _question(
    answer: ParsedAnswer, measure: str, inverted: bool, part: str
) -> AnsweredQuestion:
    """The question as the measure judges it. inverted: a measure of 0 is right."""
    question = answer.question
    if part:
        question = replace(question, fields={"part": part, **question.fields})
    if question.kind == "rolling":
        return question
    is_one = answer.right[measure]
    chosen = None
    if answer.choices is not None:
        chosen = chosen_place(measure, answer.choices, is_one)
    if inverted:
        place = question.target_place
        unwanted = question.target if place is None else question.choices[place].text
        question = replace(question, target=f"not {unwanted.strip()}")
    right = is_one is not inverted
    if question.right is right and question.chosen == chosen:
        return question
    return replace(question, right=right, chosen=chosen)


def file_lines(file: Path) -> Iterator[bytes]:
    """The lines of a file, each cut one byte after the limit."""
    with file.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            yield line


def begins_with(file: Path, pattern: bytes) -> bool:
    """Whether the beginning of a .json file has this pattern, by which programs are told apart."""
    if file.suffix != ".json":
        return False
    with file.open("rb") as stream:
        return re.search(pattern, stream.read(_HEAD_BYTES)) is not None


def json_document(file: Path, kind: type[T]) -> T:
    """The content of a JSON file, which may hold NaN. Raises CorpusError."""
    if file.stat().st_size > MAX_JSON_BYTES:
        raise CorpusError(f"{file.name} is larger than {MAX_JSON_BYTES // 10**6} MB.")
    try:
        return json_decoded(file.read_bytes(), kind)
    except (OSError, *UNREADABLE) as error:
        raise CorpusError(
            f"{file.name} could not be read: {first_line(error)}."
        ) from error


def json_decoded(content: Any, kind: type[T]) -> T:
    """JSON, or what was decoded of it, as plain values of this type, its other fields skipped.
    Raises ValueError.
    """
    if not isinstance(content, bytes):
        return msgspec.convert(content, kind)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError:
        # A number may be NaN.
        return msgspec.convert(json.loads(content), kind)


def json_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None of an empty one. Raises CorpusError, and ValueError."""
    if not line.strip():
        return None
    if len(line) > MAX_LINE_BYTES:
        raise CorpusError(f"it is longer than {MAX_LINE_BYTES // 10**6} MB")
    # Not by msgspec: a metric that is not used may be NaN.
    values = json.loads(line)
    if not isinstance(values, dict):
        raise CorpusError("it is no JSON object")
    return values


def checked_answers(
    items: Iterable[Any],
    source: str,
    unit: str,
    read: Callable[[Any], ParsedAnswer | None],
) -> Iterator[ParsedAnswer]:
    """The answers `read` finds. Raises CorpusError with the number of the item that it refuses."""
    number = 1
    try:
        for item in items:
            answer = read(item)
            if answer is not None:
                yield answer
            number += 1
    except OSError as error:
        raise CorpusError(
            f"{source} could not be read: {first_line(error)}."
        ) from error
    except UNREADABLE as error:
        reason = first_line(error)
        if isinstance(error, KeyError):
            reason += " is missing"
        raise CorpusError(
            f"{unit} {number:,} of {source} is no answer that can be read: {reason}."
        ) from error


def parsed_answer(
    metrics: Mapping[str, Any],
    values: Mapping[str, Any],
    choices: ScoredChoices | None,
    name: str = "none",
) -> ParsedAnswer:
    """The answer with these values, their types and ranges checked. name: of the filter."""
    right = {
        key: bool(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and value in (0, 1)
    }
    rolling = "log_likelihood" in values
    question = msgspec.convert(
        {"right": None if rolling else False, **values}, AnsweredQuestion
    )
    return ParsedAnswer(name, right, question, choices)


def scored_choices(
    texts: Sequence[str], log_likelihoods: Sequence[float]
) -> tuple[dict[str, Any], ...]:
    """Values of `ScoredChoice`, of as many texts as log-likelihoods."""
    pairs = zip(texts, log_likelihoods, strict=True)
    return tuple({"text": text, "log_likelihood": score} for text, score in pairs)


def short_fields(doc: Any, names: Iterable[str] | None = None) -> dict[str, str]:
    """The first MAX_FIELDS short values of a document, by which questions are grouped, such as its
    subject. names: the fields to look at; None: all.
    """
    fields = dict[str, str]()
    if not isinstance(doc, Mapping):
        return fields
    for name in names or doc:
        value = doc.get(name)
        is_short = isinstance(value, str | int) and 0 < len(str(value)) <= LONGEST_FIELD
        if is_short and len(fields) < MAX_FIELDS:
            fields[str(name)[:LONGEST_FIELD]] = str(value)
    return fields


def shared_passage(doc: Any) -> str:
    """The beginning of the hash of the passage that a document asks about; "" where it has none."""
    for name in _PASSAGES if isinstance(doc, Mapping) else ():
        text = doc.get(name)
        if isinstance(text, str) and len(text) >= _SHORTEST_PASSAGE:
            return sha256_of(text)[:_CLUSTER_DIGITS]
    return ""


def nested_entry(values: Any, *names: str) -> Any:
    """Value of nested mappings under these names, or None."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def sha256_of(text: str) -> str:
    """Lower-case hexadecimal sha256 of a text, half characters replaced."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
