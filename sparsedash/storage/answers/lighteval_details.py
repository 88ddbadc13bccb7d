"""lighteval 0.10 or newer: its tables `details_*.parquet`."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsedash.schema.errors import CorpusError, first_line
from sparsedash.schema.question_records import QuestionSet
from sparsedash.storage.answers.declared_results import declared_results, results_in
from sparsedash.storage.answers.harness_samples import (
    DATED,
    first_of,
    newest_files,
    slices_of,
)
from sparsedash.storage.answers.parsed_answers import (
    MAX_BYTES,
    ParsedAnswer,
    checked_answers,
    parsed_answer,
    question_set,
    scored_choices,
    sha256_of,
    shared_passage,
)
from sparsedash.storage.answers.scored_choices import ScoredChoices

_DETAILS = re.compile(rf"details_(?P<task>.+?)(?:{DATED})?\.parquet", re.DOTALL)
_BATCH_ROWS = 256
_BATCH_SHARE = 8


def is_details_file(file: Path) -> bool:
    """Whether a file is a table."""
    return file.suffix == ".parquet"


def details_folder(file: Path) -> Path:
    """The folder named after the model, in which there is one of the date."""
    return file.parent.parent


def read_details(files: Sequence[Path]) -> Iterator[QuestionSet]:
    """A set a task, of its newest file. Raises CorpusError."""
    for name, file in sorted(newest_files(files, _DETAILS).items()):
        declared = declared_results(_results_of(file), name)
        # suite|task|n_examples, of which a suite or the number may be missing.
        declared = replace(declared, task=re.sub(r"^.*\|(?!\d+$)", "", name))
        yield question_set(
            _rows_read(file), file.name, details_folder(file).name, declared
        )


def _results_of(file: Path) -> Any:
    """The results of this table: beside it, or in `results`, next to the folder `details`."""
    named = _DETAILS.fullmatch(file.name)
    date = (named["date"] or "") if named else ""
    results = results_in(file.parent, date)
    model = details_folder(file.absolute())
    if results is None and "details" in model.parts:
        above, _, below = f"{model}/".rpartition("/details/")
        results = results_in(Path(f"{above}/results/{below}"), date)
    return results


def _rows_read(file: Path) -> Iterator[ParsedAnswer]:
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
            sizes = [
                about.row_group(i).total_byte_size for i in range(about.num_row_groups)
            ]
            # One text of the header's size can stand in every row.
            batch_rows = max(
                1, min(_BATCH_ROWS, MAX_BYTES // _BATCH_SHARE // max([1, *sizes]))
            )
            batches = table.iter_batches(
                batch_rows, columns=["doc", "metric", "model_response"]
            )
            yield from checked_answers(
                _rows(batches),
                file.name,
                "Row",
                _lighteval_answer,
            )
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(
            f"{file.name} could not be read: {first_line(error)}."
        ) from error


def _rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The rows of a table. Raises CorpusError at the limit: small files can unpack to much."""
    n_bytes = 0
    for batch in batches:
        n_bytes += batch.nbytes
        if n_bytes > MAX_BYTES:
            raise CorpusError(
                f"the answers so far are more than {MAX_BYTES // 10**9} GB"
            )
        yield from batch.to_pylist()


def _lighteval_answer(row: Mapping[str, Any]) -> ParsedAnswer:
    doc = row["doc"]
    response = row["model_response"]
    texts = [str(text) for text in doc["choices"] or ()]
    prompt = response.get("input") or doc["query"]
    if not isinstance(prompt, str):
        prompt = json.dumps(prompt, ensure_ascii=False)
    golds = (
        doc["gold_index"]
        if isinstance(doc["gold_index"], list)
        else [doc["gold_index"]]
    )
    log_likelihoods = response.get("logprobs")
    target = ", ".join(str(gold) if log_likelihoods else texts[gold] for gold in golds)
    values: dict[str, Any] = {
        "doc_hash": sha256_of(json.dumps([doc["query"], texts], ensure_ascii=False)),
        "prompt_hash": sha256_of(prompt),
        "target_hash": sha256_of(target),
        "context": prompt,
        "target": target,
        "fields": slices_of(doc.get("specific")),
        "cluster": shared_passage(doc.get("specific")),
    }
    choices = None
    if log_likelihoods:
        values["choices"] = scored_choices(texts, log_likelihoods)
        if len(texts) > 1:
            choices = ScoredChoices(
                texts=[text.removeprefix(" ") for text in texts],
                log_likelihoods=log_likelihoods,
                target=target,
            )
    else:
        values["text"] = str(first_of(response["text"]))
        extracted = response.get("text_post_processed") or values["text"]
        values["answer"] = str(first_of(extracted))
    return parsed_answer(row["metric"], values, choices)
