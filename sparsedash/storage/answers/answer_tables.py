"""Plain tables: CSV, or JSONL with an object a line, whose columns have names that are known."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import QuestionSet
from sparsedash.storage.answers.parsed_answers import (
    LONGEST_FIELD,
    MAX_LINE_BYTES,
    Declared,
    ParsedAnswer,
    checked_answers,
    file_lines,
    json_line,
    parsed_answer,
    question_set,
    sha256_of,
    shared_passage,
    short_fields,
)

Role = Literal["right", "id", "prompt", "target", "answer", "task", "model"]
COLUMNS: Mapping[Role, tuple[str, ...]] = {
    "right": ("right", "correct", "is_correct", "passed", "pass", "success", "score"),
    "id": ("id", "question_id", "doc_id", "sample_id"),
    "prompt": ("prompt", "question", "input"),
    "target": ("target", "expected", "reference", "gold"),
    "answer": ("answer", "prediction", "output", "response", "completion"),
    "task": ("task", "benchmark", "dataset"),
    "model": ("model",),
}
"""Names of columns, the first that a table has counts; needed are right, and id or prompt. Every
other short column is a field of the question.
"""
_RIGHT = {
    **dict.fromkeys(
        ("1", "1.0", "true", "yes", "right", "correct", "pass", "passed"), True
    ),
    **dict.fromkeys(
        ("0", "0.0", "false", "no", "wrong", "incorrect", "fail", "failed"), False
    ),
}
_MEASURE = "right"


def is_table(file: Path) -> bool:
    """Whether a file is named as a table."""
    return file.suffix in (".csv", ".jsonl")


def read_tables(
    files: Sequence[Path], columns: Mapping[str, str]
) -> Iterator[QuestionSet]:
    """A set a model and task. columns: names of the columns of a role, before those of COLUMNS.
    Raises CorpusError.
    """
    for file in files:
        yield from _read_file(file, columns)


def _read_file(file: Path, columns: Mapping[str, str]) -> Iterator[QuestionSet]:
    answers: dict[tuple[str, str], list[ParsedAnswer]] = defaultdict(list)
    omitted: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    by_header = dict[tuple[str, ...], dict[str, str]]()
    stem = file.stem

    def read(row: Mapping[str, Any] | None) -> ParsedAnswer | None:
        if row is None:
            return None
        header = tuple(row)
        if header not in by_header:
            by_header[header] = _columns_by_role(row, columns)
        values = _values_by_role(row, by_header[header])
        key = values.get("model") or stem, values.get("task") or stem
        if "right" not in values:
            omitted[key]["neither right nor wrong"] += 1
            return None
        answer = _row_answer(values)
        answers[key].append(answer)
        return answer

    is_csv = file.suffix == ".csv"
    rows = _csv_rows(file) if is_csv else map(json_line, file_lines(file))
    if not list(checked_answers(rows, file.name, "Row" if is_csv else "Line", read)):
        raise CorpusError(f"{file.name} holds no answers.")
    for model, task in {**answers, **omitted}:
        parsed = answers[model, task]
        declared = Declared(task=task, higher_is_better={_MEASURE: True})
        yield question_set(parsed, file.name, model, declared, omitted[model, task])


def _csv_rows(file: Path) -> Iterator[dict[str, str] | None]:
    # Of the whole process, like the default of 131,072, which a long prompt exceeds.
    csv.field_size_limit(MAX_LINE_BYTES)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, strict=True)
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise CorpusError("two columns have the same name")
        try:
            for row in rows:
                if row and len(row) != len(header):
                    raise CorpusError(
                        f"it has {len(row)} cells, and the header {len(header)}"
                    )
                yield dict(zip(header, row, strict=True)) if row else None
        except csv.Error as error:
            raise CorpusError(str(error)) from error


def _columns_by_role(
    row: Mapping[str, Any], columns: Mapping[str, str]
) -> dict[str, str]:
    """The column of each role that a row has one for. Raises CorpusError."""
    by_name = {name.strip().lower(): name for name in row}
    columns_of = dict[str, str]()
    for role, names in COLUMNS.items():
        usual = next((by_name[name] for name in names if name in by_name), None)
        column = columns.get(role, usual)
        if column is not None:
            columns_of[role] = column
    for needed in (("right",), ("id", "prompt")):
        if not columns_of.keys() & set(needed):
            raise CorpusError(f"it has no column for {' or '.join(needed)}")
    return columns_of


def _values_by_role(
    row: Mapping[str, Any], columns_of: Mapping[str, str]
) -> dict[str, Any]:
    """The values of a row by role, without empty ones; the other columns as "fields"."""
    values = dict[str, Any]()
    for name, column in columns_of.items():
        value = row[column]
        if value is None or value == "":
            continue
        if type(value) is int:
            # As JSON writes it, in a fraction of the time.
            value = str(value)
        values[name] = value if isinstance(value, str) else json.dumps(value)
    if not values.keys() & {"id", "prompt"}:
        raise CorpusError("neither id nor prompt says which question it is")
    values["cluster"] = shared_passage(row)
    names_used = set(columns_of.values())
    values["fields"] = short_fields(
        {name: row[name] for name in row if name not in names_used}
    )
    return values


def _row_answer(values: Mapping[str, Any]) -> ParsedAnswer:
    word = values["right"].strip().lower()
    if word not in _RIGHT:
        raise CorpusError(f"{values['right'][:40]!r} is neither right nor wrong")
    prompt = values.get("prompt", "")
    target = values.get("target", "")
    answer = values.get("answer", "")
    fields = values["fields"]
    if not prompt:
        # Nothing else says which question it is.
        fields = {"id": values["id"][:LONGEST_FIELD], **fields}
    question = {
        "doc_hash": sha256_of(values.get("id", prompt)),
        "prompt_hash": sha256_of(prompt),
        "target_hash": sha256_of(target),
        "context": prompt,
        "target": target,
        "fields": fields,
        "cluster": values["cluster"],
        "text": answer,
        "answer": answer,
    }
    return parsed_answer({_MEASURE: _RIGHT[word]}, question, None)
