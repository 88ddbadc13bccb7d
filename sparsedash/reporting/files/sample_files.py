"""Passages of a comparison as files for other programs: CSV, parquet, and the samples of lm-evaluation-harness."""

import csv
import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

from sparsedash.schema.records import Outcome, Passages, Record
from sparsedash.schema.secrets import encodable

FORMULA_STARTS = ("=", "+", "-", "@")
"""A spreadsheet takes a cell that begins like this for a formula."""


def view_csv(left: Record, right: Record, positions: Sequence[int], passages: Passages | None) -> bytes:
    """These passages with both answers, as UTF-8 CSV. Text that a spreadsheet would run begins with an apostrophe."""
    rows = _rows(left, right, positions, passages)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _columns(), quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: harmless(value) for name, value in row.items()})
    return text.getvalue().encode()


def view_parquet(left: Record, right: Record, positions: Sequence[int], passages: Passages | None) -> bytes:
    """As `view_csv`, as parquet; its text is left as it is, since nothing runs it."""
    # Loaded when asked for: the page need not wait for it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _rows(left, right, positions, passages)
    schema = pa.schema([(name, _arrow(kind)) for name, kind in _columns().items()])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return bytes(sink.getvalue().to_pybytes())


def harness_samples(record: Record, passages: Passages) -> bytes:
    """One JSON line for each passage, field by field as lm_eval 0.4.13 writes its samples of `lambada_openai`.

    doc_id, doc (text), target, arguments (gen_args_0: arg_0 the context, arg_1 the target), resps and filtered_resps
    (the log-likelihood and whether the target is what greedy writing gives, as text), filter, metrics, doc_hash,
    prompt_hash, target_hash (sha256), perplexity (a log-likelihood, as there), acc (0 or 1). A test holds one line of a
    real file.
    """
    pairs = zip(record.outcomes, passages.contexts, strict=True)
    lines = [json.dumps(_sample(outcome, context), ensure_ascii=True) for outcome, context in pairs]
    return "".join(f"{line}\n" for line in lines).encode()


def _columns() -> dict[str, type]:
    columns: dict[str, type] = {"index": int, "context": str, "target": str}
    for side in ("left", "right"):
        columns |= {
            f"{side}_answer": str,
            f"{side}_correct": bool,
            f"{side}_log_likelihood": float,
            f"{side}_target_rank": int,
        }
    return columns


def _rows(left: Record, right: Record, positions: Sequence[int], passages: Passages | None) -> list[dict[str, Any]]:
    """target_rank: of the target's first token; 0 where there is none."""
    rows = []
    for i in positions:
        context = passages.contexts[i] if passages else ""
        first = left.outcomes[i]
        row: dict[str, Any] = {"index": first.index, "context": encodable(context), "target": encodable(first.target)}
        for side, outcome in (("left", first), ("right", right.outcomes[i])):
            row[f"{side}_answer"] = encodable(outcome.answer)
            row[f"{side}_correct"] = outcome.last_word_right
            row[f"{side}_log_likelihood"] = outcome.log_likelihood
            row[f"{side}_target_rank"] = outcome.tokens[0].rank if outcome.tokens else 0
        rows.append(row)
    return rows


def harmless(value: object) -> object:
    """The value as it is, or text that a spreadsheet would run with an apostrophe before it."""
    if isinstance(value, str) and value.lstrip().startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def _arrow(kind: type) -> Any:
    import pyarrow as pa

    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}[kind]


def _sample(outcome: Outcome, context: str) -> dict[str, Any]:
    context, target = encodable(context), f" {encodable(outcome.target)}"
    doc = {"text": context + target}
    response = [str(outcome.log_likelihood), str(outcome.last_word_right)]
    return {
        "doc_id": outcome.index,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": context, "arg_1": target}},
        "resps": [[response]],
        "filtered_resps": [response],
        "filter": "none",
        "metrics": ["perplexity", "acc"],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(context),
        "target_hash": _hash(target),
        "perplexity": outcome.log_likelihood,
        "acc": int(outcome.last_word_right),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
