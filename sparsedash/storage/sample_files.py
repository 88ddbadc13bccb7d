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
    kind = path_kind(path)
    if kind == "file":
        return {_named(path)[0]: path}
    if kind == "nothing":
        raise CorpusError(f"{path} does not exist.", "Name a file of answers or a folder of such.")
    paths = [*path.rglob("samples_*.jsonl"), *path.rglob("details_*.parquet")]
    files = sorted(filter(Path.is_file, paths), key=lambda file: _named(file)[1])
    if not files or len(files) > _MAX_FILES:
        number = f"more than {_MAX_FILES:,}" if files else "no"
        raise CorpusError(
            f"{path} holds {number} files of answers.",
            "They are samples_*.jsonl or details_*.parquet.",
        )
    models = sorted(set(map(_model_folder, files)))
    if len(models) > 1:
        names = ", ".join(str(model).removeprefix(f"{path}/") for model in models[:5])
        raise CorpusError(
            f"{path} holds answers of several models: {names}.", "Name the folder of one."
        )
    return {_named(file)[0]: file for file in files}


def _named(file: Path) -> tuple[str, str]:
    """The task's name, and the date, in a file's name."""
    named = _SAMPLES.fullmatch(file.name) or _DETAILS.fullmatch(file.name)
    return (named["task"], named["date"] or "") if named else (file.stem, "")


def _model_folder(file: Path) -> Path:
    """The folder named after the model; lighteval has one of the date in it."""
    return file.parent if file.suffix == ".jsonl" else file.parent.parent


def _read_file(name: str, file: Path) -> QuestionSet:
    declared = _declared(_results_beside(file), name)
    if file.suffix == ".parquet":
        answers = _lighteval(file)
        # suite|task|n_examples, of which a suite or the number may be missing.
        name = re.sub(r"^.*\|(?!\d+$)", "", name)
    else:
        read = partial(_line_answer, delimiter=declared.delimiter)
        answers = _checked(_lines(file), file.name, "Line", read)
    return _question_set(
        answers,
        file.name,
        _model_folder(file).name,
        name,
        declared,
    )


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
    read = partial(
        _sample_answer,
        delimiter=declared.delimiter,
        doc_to_choice=doc_to_choice,
    )
    answers = _checked(samples, f"the samples of {task}", "Number", read)
    return _question_set(
        answers,
        f"The list of samples of {task}",
        model,
        task,
        declared,
    )


def _question_set(
    answers: Iterable[_Answer], source: str, model: str, name: str, declared: _Declared
) -> QuestionSet:
    kept: list[_Answer] = []
    for answer in answers:
        if not kept or answer.filter == kept[0].filter:
            kept.append(answer)
    if not kept:
        raise CorpusError(f"{source} holds no answers.")
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
        questions=tuple(_question(answer, measure, higher is False, part) for answer in kept),
    )


def _parts(name: str) -> tuple[str, str]:
    """The pooled task, with its form and lighteval's number of examples; and the part, or ""."""
    task, bar, n_examples = name.partition("|")
    form = next(filter(task.endswith, _FORMS), "")
    for group in _POOLED:
        if task == group:
            break
        if task.startswith((f"{group}_", f"{group}:")):
            return f"{group}{form}{bar}{n_examples}", task[len(group) + 1 :].removesuffix(form)
    return name, ""


def _results_beside(file: Path) -> Any:
    """The results written with a file of answers, or None where they cannot be read.

    lighteval writes them to `results`, next to its folder `details`.
    """
    folder = file.parent
    name = f"results_{_named(file)[1]}.json"
    model = _model_folder(file.absolute())
    if file.suffix == ".parquet" and not (folder / name).exists() and "details" in model.parts:
        above, _, below = f"{model}/".rpartition("/details/")
        folder = Path(f"{above}/results/{below}")
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
    directions = {}
    for metric in metrics if isinstance(metrics, list) else ():
        names = _entry(metric, "metric_name")
        higher = _entry(metric, "higher_is_better")
        for name in names if isinstance(names, list) else [names]:
            directions[str(name)] = (
                _entry(higher, str(name)) if isinstance(higher, Mapping) else higher
            )
    return directions


def _measure(answers: Sequence[_Answer], source: str) -> str:
    """The preferred measure of those that every answer has."""
    if answers[0].question.kind == "rolling":
        return "bits a byte"
    shared = set(answers[0].right).intersection(*(answer.right for answer in answers))
    for name in (*_PREFERRED, *answers[0].right):
        if name in shared:
            return name
    raise CorpusError(f"{source} has no measure by which every answer is right or wrong.")


def _question(answer: _Answer, measure: str, inverted: bool, part: str) -> AnsweredQuestion:
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
    return replace(question, right=is_one is not inverted, chosen=chosen)


def _lines(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            yield line


def _checked(
    items: Iterable[Any], source: str, unit: str, read: Callable[[Any], _Answer | None]
) -> Iterator[_Answer]:
    """The answers `read` finds. Raises CorpusError with the number of the item that it refuses."""
    number = 0
    try:
        for item in items:
            number += 1
            answer = read(item)
            if answer is not None:
                yield answer
    except OSError as error:
        raise CorpusError(f"{source} could not be read: {first_line(error)}.") from error
    except _UNREADABLE as error:
        reason = first_line(error)
        if isinstance(error, KeyError):
            reason += " is missing"
        raise CorpusError(
            f"{unit} {number:,} of {source} is no answer that can be read: {reason}."
        ) from error


def _line_answer(line: bytes, delimiter: str) -> _Answer | None:
    if not line.strip():
        return None
    if len(line) > MAX_LINE_BYTES:
        raise CorpusError(f"it is longer than {MAX_LINE_BYTES // 10**6} MB")
    # Not by msgspec: a metric that is not used may be NaN.
    sample = json.loads(line)
    if not isinstance(sample, dict):
        raise CorpusError("it is no JSON object")
    return _sample_answer(sample, delimiter)


def _sample_answer(
    sample: Mapping[str, Any],
    delimiter: str,
    doc_to_choice: Callable[[Any], Sequence[str]] | None = None,
) -> _Answer:
    doc = sample["doc"]
    target = str(sample["target"])
    requests = []
    for request in _entries(sample, "arguments"):
        requests.append(list(request.values() if isinstance(request, dict) else request))
    context = str(requests[0][0])
    raw = [answers[0] for answers in _entries(sample, "resps")]
    answer = _first(sample.get("filtered_resps") or raw)
    names = sample.get("metrics") or [name for name in sample if name not in _OF_HARNESS]
    doc_text = json.dumps(doc, indent=2, ensure_ascii=False)
    values: dict[str, Any] = {
        # As the harness hashes them, for versions that did not.
        "doc_hash": sample.get("doc_hash") or sha256_of(doc_text),
        "prompt_hash": sample.get("prompt_hash") or sha256_of(context),
        "target_hash": sample.get("target_hash") or sha256_of(target),
        "context": context,
        "target": target,
        "fields": _slices(doc),
    }
    choices = None
    if any(name in _ROLLING for name in names):
        values |= _document_values(sample, target)
        values["log_likelihood"] = float(answer)
    elif all(map(_is_scored, raw)):
        if len(raw) != len(requests):
            raise CorpusError(f"resps holds {len(raw)} responses to {len(requests)} requests")
        # Of mutual information the second half are the choices without the question.
        n_choices = len(raw) // 2 if "acc_mutual_info" in names else len(raw)
        shown = [str(request[1]) for request in requests[:n_choices]]
        texts: Sequence[str] | None = [text.removeprefix(delimiter) for text in shown]
        if len(set(shown)) == 1 < n_choices:
            # The choices stand in the contexts, as in Winogrande.
            shown = [str(request[0]) for request in requests[:n_choices]]
            texts = None
        if doc_to_choice is not None:
            declared_texts = doc_to_choice(doc)
            texts = declared_texts if len(declared_texts) == n_choices else None
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
        values |= {"text": str(raw[0]), "answer": str(answer)}
    metrics = {name: sample.get(name) for name in names}
    return _answer(metrics, values, choices, str(sample.get("filter") or "none"))


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


def _choices(texts: Sequence[str], log_likelihoods: Sequence[float]) -> tuple[dict[str, Any], ...]:
    pairs = zip(texts, log_likelihoods, strict=True)
    return tuple({"text": text, "log_likelihood": score} for text, score in pairs)


def _slices(doc: Any) -> dict[str, str]:
    """The fields of a document that group questions, such as its subject."""
    slices = {}
    for name in _SLICES:
        value = _entry(doc, name)
        if isinstance(value, str | int) and 0 < len(str(value)) <= _LONGEST_SLICE:
            slices[name] = str(value)
    return slices


def _first(value: Any) -> Any:
    while isinstance(value, list | tuple):
        value = value[0] if value else ""
    return value


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
            about = table.metadata
            sizes = [about.row_group(i).total_byte_size for i in range(about.num_row_groups)]
            # One text of the header's size can stand in every row.
            batch_rows = max(1, min(_BATCH_ROWS, MAX_BYTES // _BATCH_SHARE // max([1, *sizes])))
            batches = table.iter_batches(batch_rows, columns=["doc", "metric", "model_response"])
            yield from _checked(
                _rows(batches),
                file.name,
                "Row",
                _lighteval_answer,
            )
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{file.name} could not be read: {first_line(error)}.") from error


def _rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The rows of a table. Raises CorpusError at the limit: small files can unpack to much."""
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
    prompt = response.get("input") or doc["query"]
    if not isinstance(prompt, str):
        prompt = json.dumps(prompt, ensure_ascii=False)
    golds = doc["gold_index"] if isinstance(doc["gold_index"], list) else [doc["gold_index"]]
    log_likelihoods = response.get("logprobs")
    target = ", ".join(str(gold) if log_likelihoods else texts[gold] for gold in golds)
    values: dict[str, Any] = {
        "doc_hash": sha256_of(json.dumps([doc["query"], texts], ensure_ascii=False)),
        "prompt_hash": sha256_of(prompt),
        "target_hash": sha256_of(target),
        "context": prompt,
        "target": target,
        "fields": _slices(doc.get("specific")),
    }
    choices = None
    if log_likelihoods:
        values["choices"] = _choices(texts, log_likelihoods)
        if len(texts) > 1:
            choices = ScoredChoices(
                texts=[text.removeprefix(" ") for text in texts],
                log_likelihoods=log_likelihoods,
                target=target,
            )
    else:
        values["text"] = str(_first(response["text"]))
        extracted = response.get("text_post_processed") or values["text"]
        values["answer"] = str(_first(extracted))
    return _answer(row["metric"], values, choices)
