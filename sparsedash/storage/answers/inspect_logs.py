"""Inspect: its logs, `.eval` (a zip of a JSON file a sample) or JSON.

A question is a sample: its id, input and choices. Of several epochs the first answer to each counts,
and of several logs of a task the newest.
"""

import json
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from sparsedash.schema.errors import CorpusError, first_line
from sparsedash.schema.question_records import QuestionSet
from sparsedash.storage.answers.parsed_answers import (
    MAX_BYTES,
    UNREADABLE,
    Declared,
    ParsedAnswer,
    begins_with,
    checked_answers,
    json_decoded,
    json_document,
    nested_entry,
    parsed_answer,
    question_set,
    sha256_of,
    shared_passage,
    short_fields,
)

_SUFFIX = ".eval"
_LOCAL_HEADER_BYTES = 30
_ZSTANDARD = 93
_LETTERS = {"C": 1, "I": 0, "N": 0}
"""Scores in letters: correct, incorrect, no answer. A partial one is neither right nor wrong."""
_OLDER = "in older logs of the task"
_ATTACHED = re.compile(r"attachment://(\w+)")


@dataclass(kw_only=True)
class _Message:
    role: str = ""
    content: str | list[Any] = ""


@dataclass(kw_only=True)
class _Output:
    completion: str | None = None


@dataclass(kw_only=True)
class _Score:
    value: Any = None
    answer: str | None = None


@dataclass(kw_only=True)
class _Sample:
    id: int | str
    input: str | list[_Message]
    epoch: int = 1
    target: str | list[str] = ""
    choices: list[str] | None = None
    messages: list[_Message] = field(default_factory=list)
    output: _Output | None = None
    scores: dict[str, _Score] | None = None
    metadata: dict[str, Any] | None = None
    attachments: dict[str, str] | None = None
    error: Any = None


@dataclass(kw_only=True)
class _Scorer:
    name: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Results:
    scores: list[_Scorer] = field(default_factory=list)


@dataclass(kw_only=True)
class _Dataset:
    sample_ids: list[Any] | None = None


@dataclass(kw_only=True)
class _Task:
    task: str
    model: str
    task_version: int | str = 0
    created: str = ""
    dataset: _Dataset = field(default_factory=_Dataset)


@dataclass(kw_only=True)
class _Log:
    eval: _Task
    status: str = "success"
    results: _Results | None = None
    samples: list[Any] | None = None


def is_log(file: Path) -> bool:
    """Whether a file is a log, by its suffix or how it begins."""
    return file.suffix == _SUFFIX or begins_with(file, rb'"eval":\s*\{')


def read_logs(files: Sequence[Path]) -> Iterator[QuestionSet]:
    """A set a model and task, of its newest log. Raises CorpusError."""
    dated = list[tuple[str, QuestionSet]]()
    for file in files:
        if file.suffix == _SUFFIX:
            log, contents = _zipped(file)
        else:
            log = json_document(file, _Log)
            contents = log.samples or ()
        dated.append((log.eval.created, _log_answers(log, contents, file.name)))
    newest = dict[tuple[str, str], QuestionSet]()
    for _, answers in sorted(dated, key=itemgetter(0)):
        task = answers.model, answers.task
        if older := newest.get(task):
            n_older = older.omitted.get(_OLDER, 0) + len(older.questions)
            answers = replace(answers, omitted={**answers.omitted, _OLDER: n_older})
        newest[task] = answers
    yield from newest.values()


def _zipped(file: Path) -> tuple[_Log, Iterable[Any]]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        names = {entry.filename: entry for entry in entries}
        # A run that was killed has only its beginning.
        header = names.get("header.json") or names["_journal/start.json"]
        (content,) = _contents(file, [header])
        log = json_decoded(content, _Log)
    except KeyError:
        raise CorpusError(
            f"{file.name} is no log of Inspect: it has no header."
        ) from None
    except (OSError, zipfile.BadZipFile, *UNREADABLE) as error:
        raise CorpusError(
            f"{file.name} could not be read: {first_line(error)}."
        ) from error
    if "header.json" not in names:
        log = replace(log, status="started")
    samples = [entry for entry in entries if entry.filename.startswith("samples/")]
    return log, _contents(file, samples)


def _contents(file: Path, entries: Iterable[zipfile.ZipInfo]) -> Iterator[bytes]:
    """Contents packed in these entries. Raises CorpusError where it is damaged or too much."""
    n_bytes = 0
    with file.open("rb") as stream:
        for entry in entries:
            stream.seek(entry.header_offset)
            header = stream.read(_LOCAL_HEADER_BYTES)
            if len(header) < _LOCAL_HEADER_BYTES:
                raise CorpusError(f"{entry.filename} is missing")
            name_bytes, extra_bytes = struct.unpack("<HH", header[26:])
            stream.seek(name_bytes + extra_bytes, 1)
            packed = stream.read(entry.compress_size)
            n_bytes += entry.file_size
            if n_bytes > MAX_BYTES:
                raise CorpusError(f"it holds more than {MAX_BYTES // 10**9} GB")
            try:
                content = _unpacked(packed, entry)
            except (zlib.error, OSError) as error:
                raise CorpusError(
                    f"{entry.filename} is damaged: {first_line(error)}"
                ) from error
            if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
                raise CorpusError(f"{entry.filename} is damaged")
            yield content


def _unpacked(packed: bytes, entry: zipfile.ZipInfo) -> bytes:
    """The entry's content, cut where it is longer than the entry says."""
    if entry.compress_type == zipfile.ZIP_STORED:
        return packed
    if entry.compress_type == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(
            packed, entry.file_size + 1
        )
    if entry.compress_type != _ZSTANDARD:
        raise CorpusError(f"{entry.filename} is packed by method {entry.compress_type}")
    # Python's zipfile has no Zstandard before 3.14.
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(packed), "zstd") as stream:
        return bytes(stream.read(entry.file_size + 1))


def _log_answers(log: _Log, contents: Iterable[Any], source: str) -> QuestionSet:
    first_epochs = dict[str, int]()
    scorers = log.results.scores if log.results else []
    upward = {scorer.name for scorer in scorers if "accuracy" in scorer.metrics}
    omitted = Counter[str]()

    def read(content: Any) -> ParsedAnswer | None:
        sample: _Sample = json_decoded(content, _Sample)
        if sample.epoch > first_epochs.setdefault(str(sample.id), sample.epoch):
            omitted["of later epochs"] += 1
            return None
        if not sample.scores:
            omitted["with an error" if sample.error else "without a score"] += 1
            return None
        values = dict[str, Any]()
        for scorer, score in sample.scores.items():
            is_named = isinstance(score.value, Mapping)
            for name, value in score.value.items() if is_named else [("", score.value)]:
                measure = f"{scorer}/{name}" if name else scorer
                if isinstance(value, str) and value in _LETTERS:
                    upward.add(measure)
                    value = _LETTERS[value]
                values[measure] = value
        return parsed_answer(values, _question_values(sample), None)

    answers = list(checked_answers(contents, source, "Sample", read))
    expected = {str(name) for name in log.eval.dataset.sample_ids or ()}
    if log.status != "success" and expected - set(first_epochs):
        omitted["not reached, since the run ended early"] = len(
            expected - set(first_epochs)
        )
    declared = Declared(
        task=log.eval.task,
        version=str(log.eval.task_version),
        higher_is_better=dict.fromkeys(upward, True),
    )
    return question_set(answers, source, log.eval.model, declared, omitted)


def _question_values(sample: _Sample) -> dict[str, Any]:
    """Values of an AnsweredQuestion."""
    source = [sample.id, msgspec.to_builtins(sample.input), sample.choices]
    asked_messages = list(
        takewhile(lambda message: message.role != "assistant", sample.messages)
    )
    if not asked_messages and isinstance(sample.input, list):
        asked_messages = sample.input
    prompt = "\n\n".join(_text(message.content) for message in asked_messages)
    if not asked_messages:
        prompt = str(sample.input)
    prompt = _ATTACHED.sub(
        lambda name: (sample.attachments or {}).get(name[1], name[0]),
        prompt,
    )
    targets = [sample.target] if isinstance(sample.target, str) else sample.target
    target = ", ".join(targets)
    (score, *_) = (sample.scores or {}).values()
    text = (sample.output.completion if sample.output else None) or ""
    return {
        "doc_hash": sha256_of(json.dumps(source)),
        "prompt_hash": sha256_of(prompt),
        "target_hash": sha256_of(target),
        "context": prompt,
        "target": target,
        "fields": short_fields(sample.metadata),
        "cluster": shared_passage(sample.metadata),
        "text": text,
        "answer": text if score.answer is None else score.answer,
    }


def _text(content: str | list[Any]) -> str:
    """The text of a message; of its images and files how they are written."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        text = nested_entry(part, "text")
        parts.append(text if isinstance(text, str) else json.dumps(part))
    return "\n".join(parts)
