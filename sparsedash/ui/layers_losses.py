"""What each layer of a sparse model lost: sentence, at most three numbers, chart, tables of losses and sizes."""

from collections.abc import Sequence
from statistics import median

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.charts.bar_charts import layers_chart, layers_words, relative_to_median
from sparsedash.reporting.charts.chart_style import theme_switch_css
from sparsedash.reporting.deployment import block_shapes, shapes_csv, shapes_table
from sparsedash.reporting.html import Html, Table, card, cards, table
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.records import Pruned, Record
from sparsedash.service.backend import Backend
from sparsedash.stats.mean_intervals import MISMATCH_ALARM, layer_mismatch, median_error_ratio
from sparsedash.ui import address_bar, chart_files, current_user, frame

OVERFITTED = 2.0
"""From how many times the error on held-out text is one."""


def choose_record(found: RunResults) -> Record:
    """Draw the choice among the run's sparse models; the last one unless the address names another there is."""
    sparse = {name: record for name, record in found.records.items() if record.pruned}
    names = {name: name for name in sparse}
    return sparse[address_bar.select("record", "Sparse model", names, list(names)[-1], noun="model")]


def show_layers(made: Pruned) -> None:
    """Draw the numbers, the chart and the table of one sparse model."""
    if made.layer_errors or made.passage_errors:
        frame.show(cards(_numbers(made)))
        frame.show(Html(f"<style>{theme_switch_css()}</style>"))
        st.plotly_chart(
            layers_chart(made, frame.theme()),
            theme=None,
            config=chart_files.chart_config("layers"),
            alt=layers_words(made),
            key="layers",
        )
        chart_files.offer_chart()
    with st.expander("The numbers as a table"):
        frame.show_table(layers_table(made))
    if made.method.reads_text and not made.layer_errors:
        frame.note(
            "The calibration text was short: enough to tell which channels matter, too little to measure what the "
            "layers lose on it."
        )
    elif not made.layer_errors:
        frame.note(
            "This method depends on no calibration text, so none was read, and what the layers lose on it was not "
            "measured."
        )
    elif not made.passage_errors:
        frame.note("This model was made before the loss on the passages was measured. Run it again to see it.")


def layers_sentence(made: Pruned) -> str:
    """What happened to the layers; first of all whether they were fitted to the wrong text."""
    elsewhere = layer_mismatch(made)
    held_out = times_more(made, made.held_out_errors)
    if elsewhere is not None and elsewhere >= MISMATCH_ALARM:
        return (
            f"The calibration text is unlike the passages: half of the layers lose at least {elsewhere:.1f} times as "
            "much on the passages as on calibration text that they were not fitted to."
        )
    if held_out is not None and held_out >= OVERFITTED:
        return (
            f"The fit holds for its own text only: half of the layers lose at least {held_out:.1f} times as much on "
            "text that was kept out of it. More calibration text would help."
        )
    errors, where = (made.layer_errors, "") if made.layer_errors else (made.passage_errors, " on the passages")
    if not errors:
        return "What the layers lost was not measured."
    worst = max(range(len(errors)), key=lambda i: errors[i])
    lost, middle = wording.percent(errors[worst]), wording.percent(median(errors))
    return f"Half of the layers lost at most {middle} of their output{where}; layer {worst + 1} lost the most, {lost}."


def layers_basis(record: Record, made: Pruned) -> str:
    """What the sentence rests on: the model, how it was pruned, and the text it was fitted to."""
    name = wording.record_name(record, several_methods=True)
    read = made.method.reads_text or made.layer_errors
    calibrated = wording.calibration_words(made.calibration) if read else wording.NO_TEXT
    return f"{wording.reference_title(record.model)} · {name} · {calibrated} · {record.dtype}"


def times_more(made: Pruned, errors: Sequence[float]) -> float | None:
    """The median of how many times more the layers lost by these errors than on calibration text; None where nothing
    was measured.
    """
    return median_error_ratio(errors, made.layer_errors)


def layers_table(made: Pruned) -> Table:
    """Every layer with all that is known of it, as a table."""
    columns = [
        ("Lost on calibration text", _percents(made.layer_errors)),
        ("On held-out text", _percents(made.held_out_errors)),
        ("On the passages", _percents(made.passage_errors)),
        ("Without compensation", _percents(made.lost_without)),
        ("Compensation bought back", _bought(made)),
        ("Sensitivity", [f"{value:.2f}{wording.NBSP}×" for value in relative_to_median(made.sensitivities)]),
    ]
    columns = [(name, cells) for name, cells in columns if cells]
    rows = [
        [str(i + 1), f"{width:,} of {dense:,}", wording.percent(1 - width / dense), *(cells[i] for _, cells in columns)]
        for i, (width, dense) in enumerate(zip(made.widths, made.dense_widths, strict=True))
    ]
    head = ["Layer", "Channels kept", "Removed", *(name for name, _ in columns)]
    return table("The layers of this model", _caption(made), head, rows)


def _caption(made: Pruned) -> str:
    of_what = "the MLP's" if made.method.takes_channels else "the projections'"
    return (
        f"Lost: the squared size of what changed in {of_what} output, as a share of the dense output's, with each "
        "token weighted as in calibration. Sensitivity: what the model loses by one unit of error there, as a multiple "
        "of the median layer's."
    )


def _numbers(made: Pruned) -> list[Html]:
    held_out = _ratio(times_more(made, made.held_out_errors), "as much on held-out text")
    numbers = [_number("Lost on calibration text", made.layer_errors, held_out)] if made.layer_errors else []
    if made.held_out_errors and not made.layer_errors:
        numbers.append(_number("Lost on held-out text", made.held_out_errors, ""))
    if made.passage_errors:
        more = times_more(made, made.passage_errors)
        below = _ratio(more, "that on calibration text")
        numbers.append(_number("Lost on the passages", made.passage_errors, below))
    if without := made.lost_without:
        bought = _bought_back(without, made.layer_errors)
        below = (
            f"compensation bought back {wording.percent(bought, 0)} of it; median of the layers' shares"
            if bought is not None
            else ""
        )
        numbers.append(_number("Without compensation", without, below))
    return numbers


def _number(name: str, errors: Sequence[float], below: str) -> Html:
    spread = f"median of the layers; from {wording.percent(min(errors))} to {wording.percent(max(errors))}"
    return card(name, wording.percent(median(errors)), spread, below, css="sd-sparse")


def _ratio(more: float | None, of_what: str) -> str:
    """A median over the layers, which need not be the ratio of the two medians shown."""
    if more is None:
        return ""
    return f"{more:.2f}{wording.NBSP}× {of_what}; median of the layers' ratios"


def _bought_back(without: Sequence[float], with_it: Sequence[float]) -> float | None:
    shares = [1 - w / o for o, w in zip(without, with_it, strict=False) if o > 0]
    return median(shares) if shares else None


def _bought(made: Pruned) -> list[str]:
    return [
        wording.percent(1 - fitted / without, 0) if without > 0 else ""
        for without, fitted in zip(made.lost_without, made.layer_errors, strict=False)
    ]


def _percents(errors: Sequence[float]) -> list[str]:
    return [wording.percent(error) for error in errors]


def show_shapes(backend: Backend, record: Record) -> None:
    """Draw the table of shapes and bytes before and after, with its download; or why there is none."""
    made, shape = record.pruned, backend.model_shape(record.model_identity)
    assert made is not None, "the page shows sparse models"
    with st.expander("Shapes and bytes, before and after"):
        if shape is None or not block_shapes(shape, made, record.dtype):
            frame.note("The sizes of this model are noted when it is loaded the next time, by a run or a prompt.")
            return
        frame.show(shapes_table(shape, made, record.dtype).html)
        st.download_button(
            "Shapes and bytes, CSV",
            data=lambda: shapes_csv(shape, made, record.dtype),
            file_name=f"sparsedash-shapes-{record.key[:8]}.csv",
            mime=current_user.private_media_type("text/csv"),
            on_click="ignore",
            key="take-shapes",
            icon=":material/download:",
        )
