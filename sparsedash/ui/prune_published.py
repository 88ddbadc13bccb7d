"""The published results beside the form: the tables with our intervals and ratios, and all that is
known of one row.
"""

from urllib.parse import urlencode

from sparsedash.catalog import published_results
from sparsedash.reporting import wording
from sparsedash.reporting.html import (
    Cell,
    Html,
    Table,
    element,
    escape,
    fact_list,
    widget_label,
)
from sparsedash.service import reproduction
from sparsedash.service.backend import Backend
from sparsedash.service.run_checks import main_memory
from sparsedash.ui import address_bar, widgets
from sparsedash.ui.form_address import form_address

_FORMATS = {"float32": "FP32", "bfloat16": "BF16"}
_CAPTION = (
    "Accuracy of {what}, {passages:,} passages. Intervals are ours: Wilson's for the sparse accuracy, Newcombe's for "
    "the change. Only totals were published, so the change is taken as unpaired; its interval is wider than a paired "
    "one. One passage is {one:.3f} points. * does not follow from the two accuracies."
)


def show_summary() -> None:
    """Draw how many published results show a difference, the basis of that, and where the tables
    were published.
    """
    shown = sum(
        reproduction.published_interval(row).shown
        for row in published_results.PUBLISHED_ROWS
    )
    results = (
        f"{shown or 'None'} of {len(published_results.PUBLISHED_ROWS)} "
        "published results of pruning without retraining"
    )
    verb = "show" if shown > 1 else "shows"
    widgets.opening(f"{results} {verb} a difference from the dense model.")
    ratios = list(
        filter(None, map(reproduction.removed_ratio, published_results.LAST_TOKEN))
    )
    basis = (
        "Judged by the published totals, which reveal less than paired answers. "
        f"{sum(ratio.reproduced for ratio in ratios)} of {len(ratios)} published shares of removed weights can be "
        "computed from the models' configs. Source: "
    )
    link = element(
        "a",
        escape(published_results.SOURCE),
        href=published_results.SOURCE_URL,
        rel="noopener noreferrer",
    )
    widgets.show(element("p", escape(basis), link, css="sd-basis"))


def show_tables() -> None:
    """Draw the two published tables, with our intervals and ratios."""
    tables = (
        ("Last token, LAMBADA", "the last token", published_results.LAST_TOKEN),
        (
            "Last word, LAMBADA in OpenAI's variant",
            "the last word",
            published_results.LAST_WORD,
        ),
    )
    for title, what, rows in tables:
        widgets.section(title)
        n = rows[0].n_passages
        caption = _CAPTION.format(what=what, passages=n, one=100 / n)
        cells = list(map(_cells, rows))
        name = f"Published accuracies of {what}"
        widgets.show_table(
            Table.of_cells(name, caption, cells, list(map(_row_link, rows)))
        )


def show_row(backend: Backend) -> None:
    """Draw one row: its flaws, what was measured here, the cost of repeating it, and the link to
    the form.
    """
    widgets.section("Repeat a row")
    widgets.note(
        f"Rows are repeated by {reproduction.METHOD}, with the calibration size, rounds and packing (512 tokens) of "
        "the published scripts. One difference: the scripts square the gradient of two sequences at a time, SparseDash "
        "that of each. If a row is too much for this machine, reduce it in the form."
    )
    by_name = {row.name: row for row in published_results.PUBLISHED_ROWS}
    titles = {name: _title(row) for name, row in by_name.items()}
    usual = reproduction.first_row(main_memory())
    row = by_name[address_bar.select("row", "Row", titles, usual.name, noun="row")]
    widgets.show(fact_list(_facts(backend, row)))
    for note in published_results.row_notes(row):
        widgets.note(note)
    widgets.link(
        "prune",
        widget_label(f"Prune {_title(row)}"),
        **(form_address(reproduction.published_run_settings(row)) or {}),
    )


def _row_link(row: published_results.PublishedRow) -> Html:
    """A row's model and share, which choose the row to repeat."""
    query = urlencode({"view": "published", "row": row.name})
    return element("a", escape(_row_name(row)), href=f"prune?{query}")


def _row_name(row: published_results.PublishedRow) -> str:
    return f"{_model(row)}, {wording.sparsity_percent(row.sparsity_permille)}"


def _cells(row: published_results.PublishedRow) -> list[Cell]:
    interval = reproduction.published_interval(row)
    ratio = reproduction.removed_ratio(row)
    sparsity = row.sparsity_permille / 10
    sparse_low, sparse_high = (100 * end for end in interval.sparse)
    low, high = (100 * end for end in interval.interval)
    stated = f"{_points(row.drop_percent / 100)}{wording.NBSP}%"
    if not row.drop_follows:
        stated += f"{wording.NBSP}*"
    cells = [
        Cell(
            "Model", _row_name(row), {"model": row.model, "sparsity_percent": sparsity}
        ),
        Cell("Calibration", row.calibration, {"calibration": row.calibration}),
        Cell(
            "Format",
            _FORMATS[row.dtype],
            {"format": row.dtype, "passages": row.n_passages},
        ),
        Cell(
            "Dense",
            wording.percent(row.dense, 2),
            {"dense_accuracy_percent": 100 * row.dense},
        ),
        Cell(
            "Sparse",
            wording.percent(row.sparse, 2),
            {"sparse_accuracy_percent": 100 * row.sparse},
        ),
        Cell(
            f"{wording.LEVEL} interval",
            wording.interval(interval.sparse),
            {
                "sparse_accuracy_percent_low": sparse_low,
                "sparse_accuracy_percent_high": sparse_high,
            },
        ),
        Cell(
            "Change, points",
            _points(interval.difference),
            {"change_points": 100 * interval.difference},
        ),
        Cell(
            f"{wording.LEVEL} interval",
            " to ".join(map(_points, interval.interval)),
            {"change_points_low": low, "change_points_high": high},
        ),
        Cell(
            "Stated change, relative",
            stated,
            {
                "stated_drop_percent": row.drop_percent,
                "stated_drop_follows": row.drop_follows,
            },
        ),
    ]
    if ratio is not None:
        shares = {
            "removed_share_published": ("Weights removed", ratio.published),
            "removed_share_of_linear": ("of Linear weights, ours", ratio.of_matmul),
            "removed_share_of_all": ("of all parameters, ours", ratio.of_parameters),
        }
        for column, (head, share) in shares.items():
            cells.append(Cell(head, f"{share:.4f}", {column: share}))
    return cells


def _facts(
    backend: Backend, row: published_results.PublishedRow
) -> list[tuple[str, str]]:
    """Published and measured results, the cost of repeating the row, and its model, as pairs of
    name and value.
    """
    dense, sparse = row.n_right
    facts = {"Published": f"{dense:,} → {sparse:,} of {row.n_passages:,} right"}
    ratio = reproduction.removed_ratio(row)
    if ratio is not None:
        of_what = (
            "of Linear and Conv weights" if ratio.reproduced else "of all parameters"
        )
        agrees = (
            "reproduced" if ratio.reproduced or ratio.explained else "not reproduced"
        )
        facts["Weights removed"] = f"{ratio.published:.4f}: {agrees}, {of_what}"
    facts |= _measured_facts(backend, row)
    cost = reproduction.published_run_cost(row)
    duration = backend.preflight(reproduction.published_run_settings(row)).duration
    facts["Time"] = "not known yet"
    if duration.parts and not duration.unknown:
        facts["Time"] = f"about {wording.duration_words(duration.seconds)}"
    facts["Memory"] = wording.least_memory_words(cost.memory)
    disk = f"{wording.size(cost.download_bytes)} to fetch, {wording.size(cost.kept_bytes)} of statistics"
    facts["Disk"] = f"{disk}, within SPARSEDASH_ARTEFACT_GB"
    model = published_results.published_model(row.model)
    trial = published_results.RUNS_AT_SIZE.get(model.config)
    if trial is not None:
        takes = f"{wording.duration_words(trial.seconds)} and {wording.size(trial.peak_bytes)} of memory on two cores"
        facts["Tried at its size"] = (
            f"{takes}, for 10 and 20 % by {trial.method} on {trial.n_tokens:,} tokens and {trial.n_passages} passages; "
            "in BF16, with random weights of its shapes, streamed from disk"
        )
    facts["Model"] = model.reference
    return list(facts.items())


def _measured_facts(
    backend: Backend, row: published_results.PublishedRow
) -> dict[str, str]:
    """Measurements of the row's newest run here."""
    here = reproduction.measured_row(row, backend.runs(), backend.record)
    if here is None:
        return {"Measured here": "not yet"}
    scores = []
    for score in (here.dense, here.sparse):
        scores.append(f"{wording.percent(score.accuracy, 2)} of {score.total:,}")
    change = wording.signed_points(here.difference)
    return {
        "Measured here": " → ".join(scores),
        "Change, paired": f"{change} points, {wording.signed_interval(here.interval)}",
        "By": wording.run_details(here.run.settings),
    }


def _points(share: float) -> str:
    return f"{100 * share:+.2f}".replace("-", wording.MINUS)


def _model(row: published_results.PublishedRow) -> str:
    return row.model.partition("/")[2]


def _title(row: published_results.PublishedRow) -> str:
    sparsity = wording.sparsity_percent(row.sparsity_permille)
    measure = row.measure.replace("-", " ")
    return f"{_model(row)}, {row.calibration}, {sparsity}, {measure}, {_FORMATS[row.dtype]}"
