"""Answers in files of other programs: `samples_*.jsonl` of lm-evaluation-harness,
`details_*.parquet` of lighteval.

Nothing in them is trusted: sizes are limited, nothing is unpickled, and a line that is not as it
should be is named by its number. Of several filters of a task the first in the file counts.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from sparsedash.schema.errors import CorpusError, first_line
from sparsedash.schema.question_records import (
    AnsweredQuestion,
    QuestionSet,
    known_direction,
    pool_parts,
)
from sparsedash.storage.local_machine import path_kind
from sparsedash.storage.scored_choices import ScoredChoices, chosen_place

MAX_BYTES = 2_000_000_000
"""Of all files of one model: MMLU with five examples before each question is a tenth of that."""
MAX_LINE_BYTES = 32_000_000
_MAX_FILES = 2_000
_BATCH_ROWS = 256
_BATCH_SHARE = 8

_DATED = r"_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)"
_SAMPLES = re.compile(rf"(?:.*-)?samples_(?P<task>.+?)(?:{_DATED})?\.jsonl", re.DOTALL)
_DETAILS = re.compile(rf"details_(?P<task>.+?)(?:{_DATED})?\.parquet", re.DOTALL)
_POOLED = (
    *("mmlu_flan_n_shot_generative", "mmlu_flan_n_shot_loglikelihood", "mmlu_flan_cot_zeroshot"),
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
_ROLLING = ("word_perplexity", "byte_perplexity", "bits_per_byte")
_SLICES = (
    "subject",
    "category",
    "subcategory",
    "topic",
    "type",
    "level",
    "difficulty",
    "domain",
    "source",
    "src",
)
_LONGEST_SLICE = 100
_OF_HARNESS = {
    *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
    *("doc_hash", "prompt_hash", "target_hash"),
}
_UNREADABLE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError),
    *(CorpusError, msgspec.MsgspecError),
)


@dataclass(slots=True)
class _Answer:
    """One line. right: whether each measure that is 0 or 1 is 1. question: without what the measure
    says.
    """

    filter: str
    right: dict[str, bool]
    question: AnsweredQuestion
    choices: ScoredChoices | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Declared:
    """What the results that come with samples say of a task. higher_is_better: by measure."""

    version: str = ""
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    delimiter: str = " "


def read_answers(path: Path) -> list[QuestionSet]:
    """The answers of one model, from a file or from all such files below a folder, one set a task.

    Raises CorpusError with the file, and the line, that cannot be read, and where there are several
    models.
    """
    files = _files(path)
    if sum(file.stat().st_size for file in files.values()) > MAX_BYTES:
        raise CorpusError(
            f"{path.name} holds more than {MAX_BYTES // 10**9} GB of answers.", "Judge fewer tasks."
        )
    return pool_parts(_read_file(name, file) for name, file in sorted(files.items()))


def _files(path: Path) -> dict[str, Path]:
    """The newest file of every task, by the task's whole name."""
    if (kind := path_kind(path)) == "file":
        return {_named(path)[0]: path}
    if kind == "nothing":
        raise CorpusError(f"{path} does not exist.", "Name a file of answers or a folder of such.")
    below = (
        file for pattern in ("samples_*.jsonl", "details_*.parquet") for file in path.rglob(pattern)
    )
    found = sorted((file for file in below if file.is_file()), key=lambda file: _named(file)[1])
    if not found or len(found) > _MAX_FILES:
        many = f"more than {_MAX_FILES:,}" if found else "no"
        raise CorpusError(
            f"{path} holds {many} files of answers.",
            "They are samples_*.jsonl or details_*.parquet.",
        )
    if len(models := sorted({_model_folder(file) for file in found})) > 1:
        named = ", ".join(
            str(model.relative_to(path) if path in model.parents else model) for model in models[:5]
        )
        raise CorpusError(
            f"{path} holds answers of several models: {named}.", "Name the folder of one."
        )
    return {_named(file)[0]: file for file in found}


def _named(file: Path) -> tuple[str, str]:
    """The task's name, and the date, in a file's name."""
    named = _SAMPLES.fullmatch(file.name) or _DETAILS.fullmatch(file.name)
    return (named["task"], named["date"] or "") if named else (file.stem, "")


def _model_folder(file: Path) -> Path:
    """The folder named after the model; lighteval has one of the date in it."""
    return file.parent if file.suffix == ".jsonl" else file.parent.parent


def _read_file(name: str, file: Path) -> QuestionSet:
    answers: Iterable[_Answer]
    declared = _declared(_results_beside(file), name)
    if file.suffix == ".parquet":
        answers = _lighteval(file)
        shots = re.search(r"\|\d+$", name)
        n_examples = shots[0] if shots else ""
        name = name.removesuffix(n_examples).split("|")[-1] + n_examples
    else:
        read = partial(_line_answer, delimiter=declared.delimiter)
        answers = _checked(_lines(file), file.name, "Line", read)
    return _question_set(answers, file.name, _model_folder(file).name, name, declared)


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
    declared = _declared(results, task)
    read = partial(_sample_answer, delimiter=declared.delimiter, doc_to_choice=doc_to_choice)
    answers = _checked(samples, f"the samples of {task}", "Number", read)
    return _question_set(answers, f"The list of samples of {task}", model, task, declared)


def _question_set(
    answers: Iterable[_Answer], source: str, model: str, name: str, declared: _Declared
) -> QuestionSet:
    kept = list[_Answer]()
    first = ""
    for answer in answers:
        first = first or answer.filter
        if answer.filter == first:
            kept.append(answer)
    if not kept:
        raise CorpusError(f"{source} holds no answers.")
    measure = _measure(kept, source)
    rolling = kept[0].question.kind == "rolling"
    higher = (
        None if rolling else known_direction(name, measure, declared.higher_is_better.get(measure))
    )
    task, part = _parts(name)
    return QuestionSet(
        model=model,
        task=task,
        version=declared.version,
        measure=measure,
        higher_is_better=higher,
        filter=first,
        questions=tuple(_question(answer, measure, higher is False, part) for answer in kept),
    )


def _parts(name: str) -> tuple[str, str]:
    """The task that is judged, with its form and lighteval's number of examples, and which part
    this is, or empty.
    """
    task, bar, n_examples = name.partition("|")
    form = next(filter(task.endswith, _FORMS), "")
    for group in _POOLED:
        if task == group:
            break
        if task.startswith((f"{group}_", f"{group}:")):
            return f"{group}{form}{bar}{n_examples}", task[len(group) + 1 :].removesuffix(form)
    return name, ""


def _results_beside(file: Path) -> Any:
    """The results that were written with a file of answers, or nothing where they cannot be read.

    lighteval has them in a folder next to that of its details.
    """
    folder = file.parent
    name = f"results_{_named(file)[1]}.json"
    model = _model_folder(file)
    if file.suffix == ".parquet" and not (folder / name).exists() and "details" in model.parts:
        at = len(model.parts) - 1 - model.parts[::-1].index("details")
        folder = Path(*model.parts[:at], "results", *model.parts[at + 1 :])
    try:
        with (folder / name).open("rb") as stream:
            # Not msgspec: a result may be NaN.
            return json.loads(stream.read(MAX_LINE_BYTES))
    except (OSError, *_UNREADABLE):
        return None


def _declared(results: Any, task: str) -> _Declared:
    config = _entry(results, "configs", task)
    version = _entry(results, "versions", task)
    delimiter = _entry(config, "target_delimiter")
    prefix = _entry(config, "gen_prefix")
    if _entry(results, "chat_template") and (not prefix or str(prefix)[-1].isspace()):
        # As the harness does where a chat's template ends the prompt.
        delimiter = ""
    directions = _entry(results, "higher_is_better", task)
    if not isinstance(directions, Mapping):
        directions = _lighteval_directions(results, task)
    return _Declared(
        version="" if version is None else str(version)[:40],
        higher_is_better={
            name: higher for name, higher in directions.items() if isinstance(higher, bool)
        },
        delimiter=delimiter if isinstance(delimiter, str) else " ",
    )


def _entry(values: Any, *names: str) -> Any:
    """What nested mappings hold under these names, or None."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _lighteval_directions(results: Any, task: str) -> dict[str, Any]:
    """Whether higher is better, by measure, in the results of lighteval. task: its whole name."""
    tasks = _entry(results, "config_tasks")
    config = _entry(tasks, task) or _entry(tasks, task.rpartition("|")[0])
    metrics = _entry(config, "metrics") or _entry(config, "metric") or ()
    directions = dict[str, Any]()
    for metric in metrics if isinstance(metrics, list) else ():
        names = _entry(metric, "metric_name")
        higher = _entry(metric, "higher_is_better")
        for name in names if isinstance(names, list) else [names]:
            directions[str(name)] = (
                _entry(higher, str(name)) if isinstance(higher, Mapping) else higher
            )
    return directions


def _measure(answers: Sequence[_Answer], source: str) -> str:
    """The measure that judges every answer: the preferred one of those there."""
    if answers[0].question.kind == "rolling":
        return "bits a byte"
    names = [name for name in answers[0].right if all(name in answer.right for answer in answers)]
    for name in (*_PREFERRED, *names):
        if name in names:
            return name
    raise CorpusError(f"{source} has no measure by which every answer is right or wrong.")


def _question(answer: _Answer, measure: str, inverted: bool, part: str) -> AnsweredQuestion:
    """The question as the measure judges it. inverted: an answer is right where the measure is
    0.
    """
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
        question = replace(question, target=_unwanted(question))
    return replace(question, right=is_one is not inverted, chosen=chosen)


def _unwanted(question: AnsweredQuestion) -> str:
    """What stands in place of the expected answer where that is the one to avoid."""
    place = question.target_place
    if place is None:
        return f"not {question.target.strip()}"
    return f"not {question.choices[place].text.strip()}"


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            yield line


def _checked(
    items: Iterable[Any], source: str, called: str, read: Callable[[Any], _Answer | None]
) -> Iterator[_Answer]:
    """What is read of the items. Raises CorpusError with the number of one that cannot be."""
    number = 0
    try:
        for item in items:
            number += 1
            if (answer := read(item)) is not None:
                yield answer
    except OSError as error:
        raise CorpusError(f"{source} could not be read: {first_line(error)}.") from error
    except _UNREADABLE as error:
        why = (
            f"{first_line(error)} is missing" if isinstance(error, KeyError) else first_line(error)
        )
        raise CorpusError(
            f"{called} {number:,} of {source} is no answer that can be read: {why}."
        ) from error


def _line_answer(line: bytes, delimiter: str) -> _Answer | None:
    if not line.strip():
        return None
    if len(line) > MAX_LINE_BYTES:
        raise CorpusError(f"it is longer than {MAX_LINE_BYTES // 10**6} MB")
    # Not by msgspec: a metric that is not used may be NaN.
    if not isinstance(sample := json.loads(line), dict):
        raise CorpusError("it is no JSON object")
    return _sample_answer(sample, delimiter)


def _sample_answer(
    sample: Mapping[str, Any],
    delimiter: str,
    doc_to_choice: Callable[[Any], Sequence[str]] | None = None,
) -> _Answer:
    doc = sample["doc"]
    target = str(sample["target"])
    _require_answered(sample)
    requests = _requests(sample["arguments"])
    raw = [answers[0] for answers in sample["resps"]]
    filtered = sample.get("filtered_resps") or raw
    names = sample.get("metrics") or [name for name in sample if name not in _OF_HARNESS]
    choices = None
    values: dict[str, Any] = {
        # As the harness hashes them, for versions that did not.
        "doc_hash": sample.get("doc_hash")
        or sha256_of(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": sample.get("prompt_hash") or sha256_of(str(requests[0][0])),
        "target_hash": sample.get("target_hash") or sha256_of(target),
        "context": str(requests[0][0]),
        "target": target,
        "fields": _slices(doc),
    }
    if any(name in _ROLLING for name in names):
        sizes = {
            name: sample[name][1] for name in _ROLLING if isinstance(sample.get(name), list | tuple)
        }
        text = {"bytes": len(target.encode()), "words": len(re.split(r"\s+", target))}
        n_bytes = sizes.get("bits_per_byte") or sizes.get("byte_perplexity") or text["bytes"]
        values |= {"n_bytes": n_bytes, "n_words": sizes.get("word_perplexity") or text["words"]}
        values["log_likelihood"] = float(_first(filtered))
    elif all(_is_scored(each) for each in raw):
        if len(raw) != len(requests):
            raise CorpusError(f"resps holds {len(raw)} responses to {len(requests)} requests")
        n_choices = len(raw)
        if "acc_mutual_info" in names:
            # The second half are the choices without the question.
            n_choices //= 2
        shown = [str(request[1]) for request in requests[:n_choices]]
        texts: Sequence[str] | None = [text.removeprefix(delimiter) for text in shown]
        if len(set(shown)) == 1 < n_choices:
            # The choices stand in the contexts, as in Winogrande.
            shown = [str(request[0]) for request in requests[:n_choices]]
            texts = None
        if doc_to_choice is not None:
            texts = doc_to_choice(doc)
        if texts is not None and len(texts) != n_choices:
            texts = None
        scores = [float(log_likelihood) for log_likelihood, _ in raw]
        values["choices"] = _choices(shown, scores[:n_choices])
        if n_choices > 1:
            choices = ScoredChoices(
                texts=texts,
                log_likelihoods=scores[:n_choices],
                unconditional=scores[n_choices : 2 * n_choices],
                greedy=[str(greedy) == "True" for _, greedy in raw[:n_choices]],
                target=target,
            )
    else:
        values |= {"text": str(raw[0]), "answer": str(_first(filtered))}
    metrics = {name: sample.get(name) for name in names}
    return _answer(metrics, values, choices, str(sample.get("filter") or "none"))


def _answer(
    metrics: Mapping[str, Any],
    values: Mapping[str, Any],
    choices: ScoredChoices | None,
    name: str = "none",
) -> _Answer:
    """The answer with these values, their types and ranges checked. name: of the filter."""
    right = {
        key: bool(value)
        for key, value in metrics.items()
        if isinstance(value, int | float) and value in (0, 1)
    }
    rolling = "log_likelihood" in values
    question = msgspec.convert({"right": None if rolling else False, **values}, AnsweredQuestion)
    return _Answer(name, right, question, choices)


def _requests(arguments: Any) -> list[list[Any]]:
    """What was asked, each a list of its arguments: as a list of lists, or by names in newer
    versions.
    """
    requests = arguments.values() if isinstance(arguments, dict) else arguments
    return [
        list(request.values()) if isinstance(request, dict) else list(request)
        for request in requests
    ]


def _is_scored(response: Any) -> bool:
    """Whether a response is a log-likelihood, and whether the text is the first choice."""
    return (
        isinstance(response, list | tuple)
        and len(response) == 2
        and str(response[1]) in ("True", "False")
    )


def _choices(texts: Sequence[str], log_likelihoods: Sequence[float]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"text": a, "log_likelihood": b} for a, b in zip(texts, log_likelihoods, strict=True)
    )


def _slices(doc: Any) -> dict[str, str]:
    found = {name: doc.get(name) for name in _SLICES} if isinstance(doc, dict) else {}
    kept = {name: str(value) for name, value in found.items() if isinstance(value, str | int)}
    return {name: value for name, value in kept.items() if 0 < len(value) <= _LONGEST_SLICE}


def _first(value: Any) -> Any:
    while isinstance(value, list | tuple):
        value = value[0] if value else ""
    return value


def _require_answered(sample: Mapping[str, Any]) -> None:
    """Raise CorpusError with the field of a sample that asks nothing, or has no response."""
    for name in ("arguments", "resps"):
        parts = sample[name]
        if isinstance(parts, dict):
            parts = list(parts.values())
        if not isinstance(parts, list | tuple):
            raise CorpusError(f"{name} is no list")
        if not parts or any(part in ([], (), {}) for part in parts):
            raise CorpusError(f"{name} is empty")


def sha256_of(text: str) -> str:
    """Lower-case hexadecimal sha256 of a text, half characters replaced."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _lighteval(file: Path) -> Iterator[_Answer]:
    # Here, since it takes a third of a second and most files are not of this kind.
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            if not {"doc", "metric", "model_response"} <= set(table.schema_arrow.names):
                raise CorpusError(
                    f"{file.name} has no columns doc, metric and model_response, as lighteval 0.10 has."
                )
            sizes = [
                table.metadata.row_group(i).total_byte_size
                for i in range(table.metadata.num_row_groups)
            ]
            # By the file's own header: a small compressed file can hold more than memory.
            if sum(sizes) > MAX_BYTES:
                raise CorpusError(
                    f"{file.name} holds more than {MAX_BYTES // 10**9} GB of answers."
                )
            # One text of the header's size can stand in every row.
            at_once = max(1, min(_BATCH_ROWS, MAX_BYTES // _BATCH_SHARE // max([1, *sizes])))
            batches = table.iter_batches(at_once, columns=["doc", "metric", "model_response"])
            yield from _checked(_rows(batches), file.name, "Row", _lighteval_answer)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{file.name} could not be read: {first_line(error)}.") from error


def _rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    n_bytes = 0
    for batch in batches:
        n_bytes += batch.nbytes
        if n_bytes > MAX_BYTES:
            raise CorpusError(f"the answers so far are more than {MAX_BYTES // 10**9} GB")
        yield from batch.to_pylist()


def _lighteval_answer(row: Mapping[str, Any]) -> _Answer:
    doc = row["doc"]
    response = row["model_response"]
    texts = [str(text) for text in doc["choices"] or ()]
    asked = response.get("input") or doc["query"]
    golds = doc["gold_index"] if isinstance(doc["gold_index"], list) else [doc["gold_index"]]
    target = ", ".join(
        map(str, golds) if response.get("logprobs") else [texts[gold] for gold in golds]
    )
    prompt = asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)
    values: dict[str, Any] = {
        "doc_hash": sha256_of(json.dumps([doc["query"], texts], ensure_ascii=False)),
        "prompt_hash": sha256_of(prompt),
        "target_hash": sha256_of(target),
        "context": prompt,
        "target": target,
        "fields": _slices(doc.get("specific")),
    }
    choices = None
    if response.get("logprobs"):
        values["choices"] = _choices(texts, response["logprobs"])
        if len(texts) > 1:
            choices = ScoredChoices(
                texts=[text.removeprefix(" ") for text in texts],
                log_likelihoods=response["logprobs"],
                target=target,
            )
    else:
        written = str(_first(response["text"]))
        values |= {
            "text": written,
            "answer": str(_first(response.get("text_post_processed") or written)),
        }
    return _answer(row["metric"], values, choices)
