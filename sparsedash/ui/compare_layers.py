"""What each layer of a sparse model lost: sentence, at most three numbers, chart, tables of losses
and sizes.
"""

from collections.abc import Sequence
from functools import partial
from statistics import median

import streamlit as st

from sparsedash.catalog.gguf_names import tensor_types
from sparsedash.reporting import wording
from sparsedash.reporting.charts.bar_charts import layers_chart
from sparsedash.reporting.deployment import block_shapes, shapes_table
from sparsedash.reporting.html import Cell, Html, Table, card, cards, file_name
from sparsedash.reporting.run_answer import missing_records, run_ending
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned, Record, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.mean_intervals import MISMATCH_ALARM, layer_mismatch, median_error_ratio
from sparsedash.ui import frame
from sparsedash.ui.browser_scripts import show_chart
from sparsedash.ui.chosen_run import ChosenRun, choose_record, link_to_export, show_incomplete
from sparsedash.ui.compare_views import choose_run
from sparsedash.ui.loss_charts import show_kinds

OVERFITTED = 2.0
"""From this many times the error on calibration text, held-out error counts as overfitting."""


_LOSSES = {
    "Lost on calibration text": "layer_errors",
    "Lost on held-out text": "held_out_errors",
    "Lost on the passages": "passage_errors",
    "Without compensation": "lost_without",
}
"""Fields of the record by the names of their columns."""


def show_layers_of(
    backend: Backend, chosen: ChosenRun, found: RunResults, runs: Sequence[Run]
) -> None:
    """Draw the layers of one sparse model of the run, with the choice of both. runs: those that can
    be chosen.
    """
    answer = st.container()
    left, right = st.columns(2)
    with left:
        choose_run(backend, runs, chosen.key)
    if not found.sparse:
        with answer:
            frame.opening("The layers of this run cannot be shown.")
            frame.note(missing_records(found.run, found.missing))
        return
    with right:
        record = choose_record(found)
    assert record.pruned is not None
    with answer:
        frame.opening(layers_sentence(record.pruned), _basis(record, record.pruned))
        show_incomplete(run_ending(found.run, chosen.job))
    stem = file_name(wording.file_stem(found.run), found.names[record.key])
    _show_layers(record.pruned, stem)
    show_kinds(record, found.names[record.key], wording.file_stem(found.run))
    _show_shapes(backend, record, stem)
    with frame.row():
        frame.link("overview", "Back to the chart", run=chosen.key)
        link_to_export(chosen.key, found.names[record.key])


def _show_layers(made: Pruned, stem: str) -> None:
    """Draw the numbers, the chart and the table of one sparse model. stem: of the files' names."""
    if made.layer_errors or made.passage_errors or made.method.takes_layers:
        numbers = _numbers(made)
        if numbers:
            frame.show(cards(numbers))
        show_chart(
            layers_chart(made, frame.theme()),
            f"{stem}-layers",
            layers_sentence(made),
            "layers",
            "ignore",
        )
    if made.healed:
        before = "" if made.method.takes_layers else " All losses of layers are those before it."
        frame.note(f"Healed: {wording.healing_words(made.healed)}.{before}")
    if made.quantised:
        types = wording.first_upper(tensor_types(made.quantised.tensors, made.quantised.fell_back))
        frame.note(f"{types}. All losses of layers are those before.")
    with st.expander("The numbers as a table"):
        frame.show_table(_layers_table(made, stem))
    if not made.layer_errors and not made.method.takes_layers:
        frame.note(_why_not_measured(made.method))


def _why_not_measured(method: MethodSettings) -> str:
    """Why there is no loss of the layers on the calibration text."""
    if not method.reads_text:
        return "This method reads no calibration text, so no loss on it was measured."
    if not method.needs_statistics:
        return "Layers were fitted to the sparse layers' outputs, so their loss is measured on the passages only."
    return "The calibration text was short: enough to rank channels, too little to measure the layers' loss on it."


def layers_sentence(made: Pruned) -> str:
    """What the layers lost, in a sentence; above all whether they were fitted to the wrong text."""
    if made.quantised and not made.sparsity_permille:
        return "No channel was removed: every layer is dense's, quantised."
    if made.method.takes_layers:
        gone = [str(index) for index, width in enumerate(made.widths, 1) if not width]
        name = (
            f"{'Layers' if len(gone) > 1 else 'Layer'} {wording.and_join(gone)}"
            if gone
            else "No layer"
        )
        return f"{name} of {len(made.widths)} {'is' if len(gone) < 2 else 'are'} gone, attention and MLP."
    elsewhere = layer_mismatch(made)
    held_out = median_error_ratio(
        _of_cut(made, made.held_out_errors), _of_cut(made, made.layer_errors)
    )
    if elsewhere is not None and elsewhere >= MISMATCH_ALARM:
        more = (
            f"half of the layers lose at least {elsewhere:.1f} times as much on the passages as on"
        )
        if not made.held_out_errors:
            return f"The calibration text is too short, or unlike the passages: {more} it."
        return f"The calibration text is unlike the passages: {more} held-out calibration text."
    if held_out is not None and held_out >= OVERFITTED:
        return (
            f"Overfitted to the calibration text: half of the layers lose at least {held_out:.1f} times as much on "
            "held-out text. Calibrate on more text."
        )
    errors, where = (
        (made.layer_errors, "") if made.layer_errors else (made.passage_errors, " on the passages")
    )
    if not errors:
        return "The loss of the layers was not measured."
    worst = max(range(len(errors)), key=lambda i: errors[i])
    lost = wording.percent(errors[worst])
    middle = wording.percent(median(_of_cut(made, errors)))
    before = "healing" if made.healed else "quantising"
    half = f"Before {before}, half" if made.healed or made.quantised else "Half"
    most = f"layer {worst + 1} lost the most, {lost}"
    if len(_cut(made)) == 1:
        said = f"one layer that was cut lost {middle} of its output{where}."
        return f"The {said}" if half == "Half" else f"Before {before}, the {said}"
    return f"{half} of {_cut_words(made)} lost at most {middle} of their output{where}; {most}."


def _cut(made: Pruned) -> list[int]:
    """The layers that something was removed from, where that differs; else all."""
    narrower = [i for i, width in enumerate(made.widths) if width < made.dense_widths[i]]
    return narrower or list(range(len(made.widths)))


def _of_cut(made: Pruned, errors: Sequence[float]) -> list[float]:
    return [errors[i] for i in _cut(made)] if errors else []


def _cut_words(made: Pruned) -> str:
    n = len(_cut(made))
    if n == 1:
        return "the one layer that was cut"
    return (
        "the layers"
        if n == len(made.widths)
        else f"the {n} layers that were cut ({len(made.widths)} in all)"
    )


def _basis(record: Record, made: Pruned) -> str:
    """The basis of the sentence: the model, how it was pruned, and the text it was fitted to."""
    name = f"{wording.method_title(made.method.unquantised)} {made.sparsity_permille / 10:g} %"
    name = wording.typed(name, made.method, made.sparsity_permille)
    read = made.method.reads_text or made.layer_errors
    calibrated = wording.calibration_words(made.calibration) if read else wording.NO_TEXT
    return f"{wording.reference_title(record.model)} · {name} · {calibrated} · {record.dtype}"


def _layers_table(made: Pruned, stem: str) -> Table:
    """Every layer with all that is known of it."""
    rows = list[list[Cell]]()
    losses = {name: found for name, field in _LOSSES.items() if (found := getattr(made, field))}
    for i, (width, dense) in enumerate(zip(made.widths, made.dense_widths, strict=True)):
        kept = f"{width:,} of {dense:,}" if width else "gone, with its attention"
        removed = 1 - width / dense
        row = [
            Cell("Layer", str(i + 1), {"layer": i + 1}),
            Cell("Channels kept", kept, {"channels_kept": width, "channels_dense": dense}),
            Cell("Removed", wording.percent(removed), {"removed_percent": 100 * removed}),
        ]
        for name, found in losses.items():
            column = f"{name.lower().replace(' ', '_').replace('-', '_')}_percent"
            row.append(Cell(name, wording.percent(found[i]), {column: 100 * found[i]}))
        if made.lost_without and made.layer_errors:
            without = made.lost_without[i]
            fitted = made.layer_errors[i]
            row.append(
                Cell(
                    "Recovered by compensation",
                    wording.percent(1 - fitted / without, 0) if without > 0 else "",
                )
            )
        if made.alone:
            row.append(
                Cell(
                    "Divergence alone, nats",
                    f"{made.alone[i]:.4f}",
                    {"divergence_alone_nats": made.alone[i]},
                )
            )
        rows.append(row)
    of_what = "the MLP's" if made.method.takes_channels else "the projections'"
    caption = (
        f"Lost: squared error of {of_what} output, as a share of the dense output's, tokens weighted as in "
        "calibration. Divergence alone: KL of the next token from dense, had only this layer been cut."
    )
    return Table.of_cells("The layers of this model", caption, rows, of=stem)


def _numbers(made: Pruned) -> list[Html]:
    """Figure cards of medians over the layers that were cut; a ratio of errors is a median of its
    own.
    """
    of_cut = partial(_of_cut, made)
    fitted = of_cut(made.layer_errors)
    without = of_cut(made.lost_without)
    shares = [1 - error / raw for raw, error in zip(without, fitted, strict=False) if raw > 0]
    held_out, passages = (
        median_error_ratio(of_cut(each), fitted)
        for each in (made.held_out_errors, made.passage_errors)
    )
    more = {
        "Lost on calibration text": held_out
        and f"{held_out:.2f}{wording.NBSP}× as much on held-out text",
        "Lost on the passages": passages
        and f"{passages:.2f}{wording.NBSP}× that on calibration text",
        "Without compensation": shares
        and f"compensation recovered {wording.percent(median(shares), 0)} of it",
    }
    drawn = []
    for name, field in _LOSSES.items():
        errors = of_cut(getattr(made, field))
        if errors and not (field == "held_out_errors" and fitted):
            ends = wording.percent(min(errors)), wording.percent(max(errors))
            reach = f"median of {_cut_words(made)}; from {ends[0]} to {ends[1]}"
            beside = f"{more[name]}; median of each layer's own" if more.get(name) else ""
            drawn.append(
                card(name, wording.percent(median(errors)), reach, beside, css="sd-sparse")
            )
    return drawn


def _show_shapes(backend: Backend, record: Record, stem: str) -> None:
    """Draw the table of shapes and bytes before and after, or why there is none. stem: of its
    file's name.
    """
    made = record.pruned
    shape = backend.model_shape(record)
    assert made is not None, "the page shows sparse models"
    with st.expander("Shapes and bytes, before and after"):
        if shape is None or not block_shapes(shape, made):
            frame.note(
                "The layer sizes are known once a run or a prompt has loaded this model again."
            )
            return
        frame.show_table(shapes_table(shape, made, record.dtype, stem))
