"""lm-evaluation-harness: its files `samples_*.jsonl`, and its samples in memory.

Of several filters of a task the first in the file counts.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.question_records import QuestionSet, can_be_pooled
from sparsedash.storage.answers.declared_results import (
    aggregated_group,
    declared_results,
    results_in,
)
from sparsedash.storage.answers.parsed_answers import (
    ParsedAnswer,
    checked_answers,
    file_lines,
    json_line,
    parsed_answer,
    question_set,
    scored_choices,
    sha256_of,
    shared_passage,
    short_fields,
)
from sparsedash.storage.answers.scored_choices import ScoredChoices

DATED = r"_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)"
"""The date at the end of a file's name."""
_SAMPLES = re.compile(rf"(?:.*-)?samples_(?P<task>.+?)(?:{DATED})?\.jsonl", re.DOTALL)
_ROLLING = ("word_perplexity", "byte_perplexity", "bits_per_byte")
_SLICES = (
    *(
        "subject",
        "category",
        "subcategory",
        "topic",
        "type",
        "level",
        "difficulty",
        "domain",
    ),
    *("source", "src"),
)
"""Fields of a document that group questions. A document has many that do not."""
_OF_HARNESS = {
    *(
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
    ),
    *("doc_hash", "prompt_hash", "target_hash"),
}


def samples_set(
    model: str,
    task: str,
    samples: Iterable[Mapping[str, Any]],
    results: Mapping[str, Any],
    doc_to_choice: Callable[[Any], Sequence[str]] | None = None,
) -> QuestionSet:
    """The set of one task's samples in memory, as the harness gives them with `log_samples`. Raises
    CorpusError.

    results: what the harness gives with them. doc_to_choice: the choices of a document, where there
    are any.
    """
    declared = declared_results(results, task)
    read = partial(
        _sample_answer,
        delimiter=declared.delimiter,
        doc_to_choice=doc_to_choice,
    )
    answers = checked_answers(samples, f"the samples of {task}", "Number", read)
    return question_set(
        answers,
        f"The list of samples of {task}",
        model,
        declared,
    )


def is_samples_file(file: Path) -> bool:
    """Whether a file is named as the harness names its samples, or begins as they do."""
    if _SAMPLES.fullmatch(file.name):
        return True
    return file.suffix == ".jsonl" and b'"resps":' in next(file_lines(file), b"")


def samples_folder(file: Path) -> Path:
    """The folder named after the model."""
    return file.parent


def read_samples(files: Sequence[Path]) -> Iterator[QuestionSet]:
    """A set a task, of its newest file; the tasks that are named after a group with a score of its
    own, such as MMLU's subjects, are parts of it. Raises CorpusError.
    """
    sets = dict[str, QuestionSet]()
    groups = dict[tuple[Path, str], list[str]]()
    for name, file in sorted(newest_files(files, _SAMPLES).items()):
        named = _SAMPLES.fullmatch(file.name)
        date = named["date"] if named else ""
        results = results_in(file.parent, date or "")
        declared = declared_results(results, name)
        read = partial(_line_answer, delimiter=declared.delimiter)
        answers = checked_answers(file_lines(file), file.name, "Line", read)
        model = samples_folder(file).name
        if model.startswith("__"):
            # The absolute path of a folder, as the harness writes it.
            model = model.rpartition("__")[2] or model
        sets[name] = question_set(answers, file.name, model, declared)
        group = aggregated_group(results, name)
        if group and name.startswith(f"{group}_"):
            groups.setdefault((file.parent, group), []).append(name)
    for (_, group), names in groups.items():
        if can_be_pooled([sets[name] for name in names]):
            for name in names:
                sets[name] = _part_of(group, name, sets[name])
    yield from sets.values()


def _part_of(group: str, name: str, answers: QuestionSet) -> QuestionSet:
    """The answers to a task as a part of a group."""
    part = name.removeprefix(f"{group}_")
    questions = []
    for question in answers.questions:
        questions.append(replace(question, fields={"part": part, **question.fields}))
    return replace(answers, task=group, questions=tuple(questions))


def newest_files(files: Sequence[Path], pattern: re.Pattern[str]) -> dict[str, Path]:
    """The newest file of every task, by the task's whole name. pattern: of names of files, with the
    groups task and date.
    """
    dated = list[tuple[str, str, Path]]()
    for file in files:
        named = pattern.fullmatch(file.name)
        date = (named["date"] or "") if named else ""
        dated.append((date, named["task"] if named else file.stem, file))
    return {task: file for _, task, file in sorted(dated)}


def _line_answer(line: bytes, delimiter: str) -> ParsedAnswer | None:
    sample = json_line(line)
    return None if sample is None else _sample_answer(sample, delimiter)


def _sample_answer(
    sample: Mapping[str, Any],
    delimiter: str,
    doc_to_choice: Callable[[Any], Sequence[str]] | None = None,
) -> ParsedAnswer:
    doc = sample["doc"]
    target = str(sample["target"])
    requests = []
    for request in _entries(sample, "arguments"):
        requests.append(
            list(request.values() if isinstance(request, dict) else request)
        )
    context = str(requests[0][0])
    raw = [answers[0] for answers in _entries(sample, "resps")]
    answer = first_of(sample.get("filtered_resps") or raw)
    names = sample.get("metrics") or [
        name for name in sample if name not in _OF_HARNESS
    ]
    values: dict[str, Any] = {
        # As the harness hashes them, for versions that did not.
        "doc_hash": sample.get("doc_hash")
        or sha256_of(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": sample.get("prompt_hash") or sha256_of(context),
        "target_hash": sample.get("target_hash") or sha256_of(target),
        "context": context,
        "target": target,
        "fields": slices_of(doc),
        "cluster": shared_passage(doc),
    }
    choices = None
    if any(name in _ROLLING for name in names):
        values |= _document_values(sample, target)
        values["log_likelihood"] = float(answer)
    elif all(map(_is_scored, raw)):
        if len(raw) != len(requests):
            raise CorpusError(
                f"resps holds {len(raw)} responses to {len(requests)} requests"
            )
        # Of mutual information the second half are the choices without the question.
        n_choices = len(raw) // 2 if "acc_mutual_info" in names else len(raw)
        shown, texts = _choice_texts(requests[:n_choices], delimiter)
        if doc_to_choice is not None:
            declared_texts = doc_to_choice(doc)
            texts = declared_texts if len(declared_texts) == n_choices else None
        scores = [float(log_likelihood) for log_likelihood, _ in raw]
        values["choices"] = scored_choices(shown, scores[:n_choices])
        if n_choices > 1:
            choices = ScoredChoices(
                texts=texts,
                log_likelihoods=scores[:n_choices],
                unconditional=scores[n_choices : 2 * n_choices],
                greedy=[str(greedy) == "True" for _, greedy in raw[:n_choices]],
                target=target,
            )
    else:
        values |= {"text": str(raw[0]), "answer": str(answer)}
    metrics = {name: sample.get(name) for name in names}
    return parsed_answer(metrics, values, choices, str(sample.get("filter") or "none"))


def _choice_texts(
    requests: Sequence[Sequence[Any]], delimiter: str
) -> tuple[list[str], Sequence[str] | None]:
    """What is shown of each choice, and its text; None where the requests do not tell it."""
    shown = [str(request[1]) for request in requests]
    if len(set(shown)) == 1 < len(shown):
        # The choices stand in the contexts, as in Winogrande.
        return [str(request[0]) for request in requests], None
    return shown, [text.removeprefix(delimiter) for text in shown]


def _document_values(sample: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Bytes and words of a document whose likelihood was measured, by its measures or its text."""
    sizes = {}
    for name in _ROLLING:
        measured = sample.get(name)
        if isinstance(measured, list | tuple):
            sizes[name] = measured[1]
    n_bytes = sizes.get("bits_per_byte") or sizes.get("byte_perplexity")
    n_words = sizes.get("word_perplexity")
    return {
        "n_bytes": n_bytes or len(target.encode()),
        "n_words": n_words or len(re.split(r"\s+", target)),
    }


def _entries(sample: Mapping[str, Any], name: str) -> list[Any]:
    """The requests or responses of a sample: a list, or in newer versions a mapping by name.

    Raises CorpusError where it is empty, or one of them is.
    """
    entries = sample[name]
    if isinstance(entries, dict):
        entries = list(entries.values())
    if not isinstance(entries, list | tuple):
        raise CorpusError(f"{name} is no list")
    if not entries or any(entry in ([], (), {}) for entry in entries):
        raise CorpusError(f"{name} is empty")
    return list(entries)


def _is_scored(response: Any) -> bool:
    """Whether a response is a log-likelihood, and whether the text is the first choice."""
    return (
        isinstance(response, list | tuple)
        and len(response) == 2
        and str(response[1]) in ("True", "False")
    )


def first_of(value: Any) -> Any:
    """The first value that is no list; "" of an empty list."""
    while isinstance(value, list | tuple):
        value = value[0] if value else ""
    return value


def slices_of(doc: Any) -> dict[str, str]:
    """The fields of a document that group questions, such as its subject."""
    return short_fields(doc, _SLICES)
