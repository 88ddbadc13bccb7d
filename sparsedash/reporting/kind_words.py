"""A sparse model's losses by kind of text, as a sentence, a table and JSON values."""

from dataclasses import asdict
from statistics import median
from typing import Any

from sparsedash.catalog.mixed_text import source_title
from sparsedash.reporting import wording
from sparsedash.reporting.html import Table
from sparsedash.schema.records import Record
from sparsedash.stats.kind_estimates import kind_estimates

_FAR = 3.0
"""From this many times the median of all kinds on, a kind is named."""


def forgotten_sentence(record: Record) -> str:
    """Which kind was forgotten far more than the others; empty where none was."""
    estimates = kind_estimates(record.by_kind)
    if len(estimates) < 2:
        return ""
    typical = median(estimate.value for estimate in estimates)
    worst = estimates[0]
    if not typical or worst.value < _FAR * typical:
        return ""
    times = f"{worst.value / typical:.1f}{wording.NBSP}×"
    return f"{source_title(worst.kind)} suffered most: {times} the median kind of text."


def kind_cells(record: Record) -> list[list[str]]:
    """The estimates as rows of a table: kind of text, value, interval."""
    return [
        [
            source_title(estimate.kind),
            f"{estimate.value:.3f}",
            f"{estimate.low:.3f} to {estimate.high:.3f}",
        ]
        for estimate in kind_estimates(record.by_kind)
    ]


def kinds_table(record: Record) -> Table:
    """The estimates as a table of the pages and reports."""
    caption = "On held-out text of the built-in mix; most forgotten first."
    return Table(
        "What was forgotten",
        caption,
        [
            "Kind of text",
            "KL, nats a token",
            f"{wording.LEVEL} interval",
        ],
        kind_cells(record),
    )


def kinds_document(record: Record) -> list[dict[str, Any]]:
    """The estimates as JSON values."""
    return [
        {"title": source_title(estimate.kind), **asdict(estimate)}
        for estimate in kind_estimates(record.by_kind)
    ]
