"""Slices of tasks in words, as a table and as a document; and all questions as a file to search."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sparsedash.reporting.html import Table, Value, csv_file
from sparsedash.reporting.record_pair import KIND_OF, KINDS, Kind
from sparsedash.reporting.task_report import answer_text, target_text
from sparsedash.reporting.task_words import task_document
from sparsedash.reporting.verdicts import VERDICT_SIGNS, level_words, loss_interval
from sparsedash.reporting.wording import p_number, quantity, signed_points
from sparsedash.stats.answer_slices import Slice
from sparsedash.stats.task_verdicts import TaskResult

_MAX_NAMED = 5
_CHANGES: tuple[Kind, ...] = ("broke", "fixed", "both-right", "both-wrong")
_CAPTION = (
    "Change: in points, from the first model. The rest: the same of the task's other questions. p: of the same loss in "
    "both, after Holm over all slices. Verdicts are those of all slices together. Last four: "
    "questions by the kind of change."
)


def slices_sentence(slices: Sequence[Slice]) -> str:
    """Which slices lost more or less than the rest of their task."""
    differing = differing_slices(slices)
    if not slices:
        return "No slice has enough questions to judge."
    about = quantity(len(slices), "slice")
    if not differing:
        return f"None of {about} is shown to differ from the rest of its task."
    differing.sort(key=lambda part: part.p_value or 0.0)
    parts = []
    for part in differing[:_MAX_NAMED]:
        change = signed_points(_change(part))
        rest_change = signed_points(-part.rest_loss)
        parts.append(
            f"{part.result.task}, {part.name} ({change} points, the rest {rest_change})"
        )
    n_more = len(differing) - len(parts)
    more = f"; {n_more} more" if n_more else ""
    differ = "differs from the rest of its task"
    if len(differing) > 1:
        differ = "differ from the rest of their task"
    return f"{len(differing)} of {about} {differ}: {'; '.join(parts)}{more}."


def _change(part: Slice) -> float:
    return part.result.other - part.result.dense


def differing_slices(slices: Sequence[Slice]) -> list[Slice]:
    """Those that are shown to differ from the rest of their task."""
    return [part for part in slices if part.differs]


def slice_table(slices: Sequence[Slice], name: str = "Slices") -> Table:
    """A row a slice, those that differ first."""
    head = [
        "Slice",
        "Task",
        "Questions",
        "Change",
        "Rest",
        "p",
        "Verdict",
        "Interval",
        "Level",
    ]
    head += [KINDS[kind] for kind in _CHANGES]
    rows = []
    for part in sorted(
        slices, key=lambda part: 1.0 if part.p_value is None else part.p_value
    ):
        result = part.result
        row = [
            part.name,
            result.task,
            f"{len(result.pair.questions):,}",
            signed_points(_change(part)),
            signed_points(-part.rest_loss),
            "" if part.p_value is None else p_number(part.p_value),
        ]
        verdict = ["not judged", "", ""]
        if result.loss is not None:
            loss = result.loss
            verdict = [
                VERDICT_SIGNS[loss.verdict],
                loss_interval(loss),
                level_words(loss.level),
            ]
        counts = changes_by_kind(part)
        rows.append([*row, *verdict, *(f"{counts[kind]:,}" for kind in _CHANGES)])
    return Table(name, _CAPTION, head, rows)


def changes_by_kind(part: Slice) -> Counter[Kind]:
    """The questions of a slice by the kind of change."""
    counts = Counter[Kind]()
    for dense, sparse in part.result.pair.questions:
        if dense.right is not None and sparse.right is not None:
            counts[KIND_OF[dense.right, sparse.right]] += 1
    return counts


def slice_documents(slices: Sequence[Slice]) -> list[dict[str, Any]]:
    """Every slice as plain values for JSON."""
    documents = []
    for part in slices:
        counts = changes_by_kind(part)
        documents.append(
            {
                "slice": part.name,
                **task_document(part.result),
                "rest": part.rest_loss,
                "p_adjusted": part.p_value,
                "differs": part.differs,
                "both_right": counts["both-right"],
                "both_wrong": counts["both-wrong"],
            }
        )
    return documents


def questions_file(results: Sequence[TaskResult]) -> bytes:
    """Every question that both answered as UTF-8 CSV: what became of it, its fields, and both
    answers.
    """
    rows = []
    fields = dict[str, None]()
    for result in results:
        for dense, _ in result.pair.questions:
            fields |= dict.fromkeys(dense.fields)
    for result in results:
        for dense, sparse in result.pair.questions:
            kind = ""
            if dense.right is not None and sparse.right is not None:
                kind = KINDS[KIND_OF[dense.right, sparse.right]].lower()
            row: dict[str, Value] = {
                "task": result.task,
                "kind": kind,
                "prompt": dense.context,
            }
            row |= {"expected": target_text(dense), "dense": answer_text(dense)}
            row |= {"other": answer_text(sparse)}
            row |= {f"field {name}": dense.fields.get(name, "") for name in fields}
            rows.append(row)
    return csv_file(rows)
