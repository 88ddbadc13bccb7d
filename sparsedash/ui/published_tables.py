"""The published tables with our intervals and ratios, and all that is known of one row."""

from sparsedash.catalog.published_results import (
    LAST_TOKEN,
    LAST_WORD,
    PUBLISHED_ROWS,
    RUNS_AT_SIZE,
    SOURCE,
    SOURCE_URL,
    PublishedRow,
    published_model,
    row_notes,
)
from sparsedash.reporting import wording
from sparsedash.reporting.html import element, escape, fact_list, table, widget_label
from sparsedash.schema.records import Run, Score
from sparsedash.schema.settings import RunSettings
from sparsedash.service import preflight
from sparsedash.service.backend import Backend
from sparsedash.service.reproduction import (
    METHOD,
    RunCost,
    measured_row,
    published_interval,
    published_run_cost,
    published_run_settings,
    removed_ratio,
)
from sparsedash.ui import address_bar, frame
from sparsedash.ui.form_address import form_address

_HEAD = [
    "Model",
    "Calibration",
    "Format",
    "Dense",
    "Sparse",
    "95 % interval",
    "Change, points",
    "95 % interval",
    "Stated drop",
]
_RATIO_HEAD = ["Weights removed", "of Linear weights, ours", "of all parameters, ours"]
_CAPTION = (
    "Accuracy of {what}, {passages:,} passages. Intervals are ours: Wilson's for the sparse accuracy, Newcombe's for "
    "the change. Only totals were published, so the change is taken as unpaired, and its interval is wider than the "
    "truth. One passage is {one:.3f} points. * does not follow from the two accuracies."
)


def published_sentence() -> str:
    """What the tables come to, in one sentence."""
    shown = sum(published_interval(row).shown for row in PUBLISHED_ROWS)
    which = f"{shown or 'None'} of {len(PUBLISHED_ROWS)} published results"
    return (
        f"{which} of pruning without retraining {'show' if shown > 1 else 'shows'} a difference from the dense model."
    )


def _basis() -> str:
    """What that sentence rests on, and what follows besides."""
    ratios = [found for row in LAST_TOKEN if (found := removed_ratio(row))]
    reproduced = sum(found.reproduced for found in ratios)
    return (
        "Judged by the published totals alone, which show less than answers compared one by one. "
        f"{reproduced} of {len(ratios)} published shares of removed weights follow from the models' configs."
    )


def show_source() -> None:
    """Draw what the opening rests on, and a link to where the tables were published."""
    named = element("a", escape(SOURCE), href=SOURCE_URL, rel="noopener noreferrer")
    frame.show(element("p", escape(f"{_basis()} Source: "), named, css="sd-basis"))


def show_tables() -> None:
    """Draw the two published tables, with our intervals and ratios."""
    frame.section("Last token, LAMBADA")
    caption = _caption("the last token", LAST_TOKEN[0].n_passages)
    rows = [_row(row) + _ratios(row) for row in LAST_TOKEN]
    frame.show_table(table("Published accuracies of the last token", caption, _HEAD + _RATIO_HEAD, rows))
    frame.section("Last word, LAMBADA in OpenAI's variant")
    caption = _caption("the last word", LAST_WORD[0].n_passages)
    frame.show_table(table("Published accuracies of the last word", caption, _HEAD, [_row(r) for r in LAST_WORD]))


def show_row(backend: Backend) -> None:
    """Draw one row by itself: its flaws, what was measured here, what repeating it takes, and a link for that."""
    frame.section("Repeat a row")
    frame.note(
        f"A row is repeated by {METHOD}, with calibration size and rounds as in the published scripts, and with the "
        "documents joined and cut into pieces of 512 tokens as they do. One thing differs: the scripts square the "
        "gradient of two pieces at a time; here the gradient of each piece is squared. A row may be far too much for "
        "this machine: the form behind the link can ask for less."
    )
    by_name = {row.name: row for row in PUBLISHED_ROWS}
    titles = {name: _title(row) for name, row in by_name.items()}
    row = by_name[address_bar.select("row", "Row", titles, PUBLISHED_ROWS[0].name, noun="row")]
    frame.show(fact_list(_facts(backend, backend.runs(), row)))
    for note in row_notes(row):
        frame.note(note)
    frame.link("prune", widget_label(f"Prune {_title(row)}"), **(form_address(published_run_settings(row)) or {}))


def _caption(what: str, n_passages: int) -> str:
    return _CAPTION.format(what=what, passages=n_passages, one=100 / n_passages)


def _row(row: PublishedRow) -> list[str]:
    found = published_interval(row)
    change = " to ".join(_points(bound) for bound in found.interval)
    stated = f"{row.drop_percent:+.2f}{wording.NBSP}%".replace("-", wording.MINUS)
    return [
        f"{_model(row)}, {_percent_asked(row)}",
        row.calibration,
        _format(row),
        wording.percent(row.dense, 2),
        wording.percent(row.sparse, 2),
        wording.interval(found.sparse),
        _points(found.difference),
        change,
        stated if row.drop_follows else f"{stated}{wording.NBSP}*",
    ]


def _ratios(row: PublishedRow) -> list[str]:
    found = removed_ratio(row)
    if found is None:
        return ["", "", ""]
    ours = f"{found.of_matmul:.4f}", f"{found.of_parameters:.4f}"
    return [f"{found.published:.4f}", ours[0], ours[1]]


def _facts(backend: Backend, runs: list[Run], row: PublishedRow) -> list[tuple[str, str]]:
    def seconds(settings: RunSettings) -> float | None:
        stored = backend.cached(settings)
        return preflight.expected_duration(settings, stored, runs, backend.record).total_s

    takes = published_run_cost(row, seconds)
    dense, sparse = row.n_right
    known = [("Published", f"{dense:,} → {sparse:,} of {row.n_passages:,} right")]
    found = removed_ratio(row)
    if found is not None:
        verdict = "of Linear and Conv weights" if found.reproduced else "of all parameters"
        agrees = "reproduced, " if found.reproduced or found.explained else "not reproduced, "
        known.append(("Weights removed", f"{found.published:.4f}: {agrees}{verdict}"))
    here = measured_row(row, runs, backend.record)
    if here is None:
        known.append(("Measured here", "not yet"))
    else:
        known += [
            ("Measured here", f"{_score(here.dense)} → {_score(here.sparse)}"),
            (
                "Change, paired",
                f"{wording.signed_points(here.difference)} points, {wording.signed_interval(here.interval)}",
            ),
            ("By", wording.run_details(here.run.settings)),
        ]
    return [*known, *_taken(takes), *_at_size(row), ("Model", published_model(row.model).reference)]


def _taken(takes: RunCost) -> list[tuple[str, str]]:
    if takes.seconds is None:
        time = "not known before this method has run here"
    else:
        how = ", scaled up from the built-in model" if takes.extrapolated else ""
        time = f"about {wording.duration_words(takes.seconds)}{how}"
    memory = wording.least_memory_words(takes.memory)
    disk = (
        f"{wording.size(takes.download_bytes)} to fetch, {wording.size(takes.kept_bytes)} of statistics, for which "
        "SPARSEDASH_ARTEFACT_GB must leave room"
    )
    return [("Time", time), ("Memory", memory), ("Disk", disk)]


def _at_size(row: PublishedRow) -> list[tuple[str, str]]:
    found = RUNS_AT_SIZE.get(published_model(row.model).config)
    if found is None:
        return []
    what = (
        f"{wording.duration_words(found.seconds)} and {wording.size(found.peak_bytes)} of memory on two cores, for 10 "
        f"and 20 % by {found.method} on {found.n_tokens:,} tokens and {found.n_passages} passages; in BF16, with "
        "random weights of its shapes, left in their files"
    )
    return [("Tried at its size", what)]


def _score(score: Score) -> str:
    return f"{wording.percent(score.accuracy, 2)} of {score.total:,}"


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", wording.MINUS)


def _title(row: PublishedRow) -> str:
    return f"{_model(row)}, {row.calibration}, {_percent_asked(row)}, {_measure(row)}, {_format(row)}"


def _model(row: PublishedRow) -> str:
    return row.model.partition("/")[2]


def _percent_asked(row: PublishedRow) -> str:
    return f"{row.sparsity_permille / 10:g}{wording.NBSP}%"


def _measure(row: PublishedRow) -> str:
    return row.measure.replace("-", " ")


def _format(row: PublishedRow) -> str:
    return {"float32": "FP32", "bfloat16": "BF16"}[row.dtype]
