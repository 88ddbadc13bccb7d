"""Losses of each layer of a sparse model: sentence, at most three numbers, chart, tables of losses
and sizes.
"""

from collections.abc import Sequence
from itertools import chain
from statistics import median

import streamlit as st

from sparsedash.catalog.gguf_names import tensor_types
from sparsedash.reporting import wording
from sparsedash.reporting.charts.bar_charts import layers_chart
from sparsedash.reporting.charts.experts_chart import experts_chart
from sparsedash.reporting.deployment import block_shapes, shapes_table
from sparsedash.reporting.divergence_words import divergence_table
from sparsedash.reporting.experts_table import layer_experts_table
from sparsedash.reporting.html import Cell, Html, Table, card, cards, file_name
from sparsedash.reporting.kind_words import forgotten_sentence, kinds_table
from sparsedash.reporting.run_answer import missing_records, run_ending
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned, Record, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.expert_use import expert_uses, removed_choices
from sparsedash.stats.mean_intervals import (
    MISMATCH_ALARM,
    layer_mismatch,
    median_error_ratio,
)
from sparsedash.ui import frame, widgets
from sparsedash.ui.browser_scripts import show_chart
from sparsedash.ui.chosen_run import (
    ChosenRun,
    choose_record,
    link_to_export,
    show_incomplete,
)
from sparsedash.ui.compare_views import choose_run
from sparsedash.ui.loss_charts import run_chart_file, show_kinds

OVERFITTED = 2.0
"""From this many times the error on calibration text, held-out error counts as overfitting."""


_NOT_REFITTED = "{:,} of {:,} kept experts were not refitted: too few calibration tokens reached them."
_ONE_NOT_REFITTED = (
    "{} of {:,} kept experts was not refitted: too few calibration tokens reached it."
)
_NEARLY_NONE = 0.001
"""Share of a layer's output below which its loss counts as none."""
_LOSSES = {
    "Lost on calibration text": "layer_errors",
    "Lost on held-out text": "held_out_errors",
    "Lost on the passages": "passage_errors",
    "Without compensation": "lost_without",
}
"""Fields of the record by the names of their columns."""


def show_layers_of(
    backend: Backend, chosen: ChosenRun, results: RunResults, runs: Sequence[Run]
) -> None:
    """Draw the layers of one sparse model of the run, with the choice of both. runs: to choose."""
    answer = st.container()
    choice_of_run, choice_of_model = st.columns(2)
    with choice_of_run:
        choose_run(backend, runs, chosen.key)
    if not results.sparse_records:
        with answer:
            widgets.opening("The layers of this run cannot be shown.")
            widgets.note(missing_records(results.run, results.missing))
        return
    with choice_of_model:
        record = choose_record(results)
    pruned = record.pruned
    assert pruned is not None
    name = results.names[record.key]
    sentence = layers_sentence(pruned)
    with answer:
        widgets.opening(sentence, _basis(record, pruned))
        show_incomplete(run_ending(results.run, chosen.job))
    stem = file_name(wording.file_stem(results.run), name)
    if pruned.layer_errors or pruned.passage_errors or pruned.method.removes_layers:
        numbers = _numbers(pruned)
        if numbers:
            widgets.show(cards(numbers))
        figure = layers_chart(pruned, frame.theme())
        file = run_chart_file(results, f"{name}: {sentence}", name, "layers")
        show_chart(figure, file, sentence, "layers", "ignore")
        if hidden := hidden_losses(pruned):
            widgets.remark(hidden)
    if any(pruned.expert_use):
        _show_experts(results, record, stem)
    if pruned.healed:
        healing = f"Healed: {wording.healing_words(pruned.healed)}."
        if not pruned.method.removes_layers:
            healing += " All losses of layers are those before it."
        widgets.note(healing)
    if pruned.quantised:
        quantised = pruned.quantised
        types = wording.first_upper(
            tensor_types(quantised.tensors, quantised.fell_back)
        )
        widgets.note(f"{types}. All losses of layers are those before.")
    with st.expander("The numbers as a table"):
        widgets.show_table(_layers_table(pruned, stem))
    if not pruned.layer_errors and not pruned.method.removes_layers:
        widgets.note(_why_not_measured(pruned.method))
    show_kinds(results, record)
    if record.by_kind:
        widgets.remark(forgotten_sentence(record))
        with st.expander("The kinds of text as a table"):
            widgets.show_table(kinds_table(record))
    if record.divergence is not None:
        with st.expander("Divergence in llama.cpp's words"):
            widgets.show_table(divergence_table(record.divergence))
    _show_shapes(backend, record, stem)
    with widgets.row():
        widgets.link("overview", "Back to the chart", run=chosen.key)
        link_to_export(chosen.key, name)


def _why_not_measured(method: MethodSettings) -> str:
    """The reason there is no loss of the layers on the calibration text."""
    if not method.reads_text:
        return "This method reads no calibration text, so no loss on it was measured."
    if not method.needs_statistics:
        return "Layers were fitted to the sparse layers' outputs, so their loss is measured on the passages only."
    return "The calibration text was short: enough to rank channels, too little to measure the layers' loss on it."


def layers_sentence(pruned: Pruned) -> str:
    """The layers' losses, in a sentence; above all whether they were fitted to the wrong text."""
    if pruned.quantised and not pruned.sparsity_permille:
        return "No channel was removed: every layer is dense's, quantised."
    if pruned.method.removes_layers:
        removed = [str(index + 1) for index in pruned.removed_layers]
        name = f"{wording.plural(len(removed), 'layer')} {wording.and_join(removed)}"
        verb = "are" if len(removed) > 1 else "is"
        subject = wording.first_upper(name) if removed else "No layer"
        return f"{subject} of {len(pruned.widths)} {verb} gone, attention and MLP."
    output = "experts' output" if pruned.method.prunes_experts else "output"
    mismatch = layer_mismatch(pruned)
    if mismatch is not None and mismatch >= MISMATCH_ALARM:
        times = f"half of the layers lose at least {mismatch:.1f} times as much on the passages"
        if not pruned.held_out_errors:
            return f"The calibration text is too short, or unlike the passages: {times} as on it."
        return f"The calibration text is unlike the passages: {times} as on held-out calibration text."
    fitted = _of_cut(pruned, pruned.layer_errors)
    held_out = median_error_ratio(_of_cut(pruned, pruned.held_out_errors), fitted)
    if held_out is not None and held_out >= OVERFITTED:
        return (
            f"Overfitted to the calibration text: half of the layers lose at least {held_out:.1f} times as much on "
            "held-out text. Calibrate on more text."
        )
    errors = pruned.layer_errors or pruned.passage_errors
    if not errors:
        return "The loss of the layers was not measured."
    loss = f"{wording.percent(median(_of_cut(pruned, errors)))} of"
    where = "" if pruned.layer_errors else " on the passages"
    sentence = f"{_cut_words(pruned)} lost {loss} its {output}{where}."
    if len(_cut(pruned)) > 1:
        worst = max(range(len(errors)), key=errors.__getitem__)
        sentence = (
            f"half of {_cut_words(pruned)} lost at most {loss} their {output}{where}; "
            f"layer {worst + 1} lost the most, {wording.percent(errors[worst])}."
        )
    if pruned.healed:
        return f"Before healing, {sentence}"
    if pruned.quantised:
        return f"Before quantising, {sentence}"
    return wording.first_upper(sentence)


def hidden_losses(pruned: Pruned) -> str:
    """The reason layers with nearly no loss may still make the model diverge; "" if none does."""
    if not pruned.layer_errors or not pruned.alone:
        return ""
    usual = median(_of_cut(pruned, pruned.alone))
    layers = []
    for index in _cut(pruned):
        is_small = pruned.layer_errors[index] < _NEARLY_NONE
        if is_small and pruned.alone[index] > 0 and pruned.alone[index] >= usual:
            layers.append(index)
    if not layers:
        return ""
    names = wording.and_join([str(index + 1) for index in layers])
    worst = max(pruned.alone[index] for index in layers)
    verb = "loses" if len(layers) == 1 else "lose"
    return (
        f"{wording.first_upper(wording.plural(len(layers), 'layer'))} {names} {verb} nearly nothing, yet the model "
        f"diverges by up to {worst:.2g} nats: a loss is a share of the whole output, of which a few very large values "
        "can be nearly all. Trust the divergence there."
    )


def _cut(pruned: Pruned) -> list[int]:
    """The layers that something was removed from, where that differs; else all."""
    narrower = [
        i for i, (kept, dense) in enumerate(pruned.kept_of_dense) if kept < dense
    ]
    return narrower or list(range(len(pruned.widths)))


def _of_cut(pruned: Pruned, errors: Sequence[float]) -> list[float]:
    return [errors[i] for i in _cut(pruned)] if errors else []


def _cut_words(pruned: Pruned) -> str:
    n = len(_cut(pruned))
    if n == 1:
        return "the one layer that was cut"
    if n == len(pruned.widths):
        return "the layers"
    return f"the {n} layers that were cut ({len(pruned.widths)} in all)"


def _basis(record: Record, pruned: Pruned) -> str:
    """The basis of the sentence: the model, how it was pruned, and the text it was fitted to."""
    name = wording.model_name(pruned.spec, named=True)
    read_text = pruned.spec.reads_text or pruned.layer_errors
    calibrated = (
        wording.calibration_words(pruned.calibration) if read_text else wording.NO_TEXT
    )
    return f"{wording.reference_title(record.model)} · {name} · {calibrated} · {record.dtype}"


def _layers_table(pruned: Pruned, stem: str) -> Table:
    """Every layer with all that is known of it."""
    rows = []
    losses = {name: getattr(pruned, field) for name, field in _LOSSES.items()}
    noun = wording.kept_noun(pruned.method)
    none = "no experts" if pruned.method.prunes_experts else "no MLP"
    column_name = noun.replace(" ", "_")
    for i, (n_kept, dense) in enumerate(pruned.kept_of_dense):
        kept = f"{n_kept:,} of {dense:,}" if dense else none
        removed = 1 - n_kept / dense if dense else 0.0
        if i in pruned.removed_layers:
            kept = "gone, with its attention"
            removed = 1.0
        row = [
            Cell("Layer", str(i + 1), {"layer": i + 1}),
            Cell(
                f"{wording.first_upper(noun)} kept",
                kept,
                {f"{column_name}_kept": n_kept, f"{column_name}_dense": dense},
            ),
            Cell(
                "Removed", wording.percent(removed), {"removed_percent": 100 * removed}
            ),
        ]
        for name, errors in losses.items():
            if errors:
                column = f"{name.lower().replace(' ', '_').replace('-', '_')}_percent"
                row.append(
                    Cell(name, wording.percent(errors[i]), {column: 100 * errors[i]})
                )
        if pruned.lost_without and pruned.layer_errors:
            without = pruned.lost_without[i]
            recovered = ""
            if without > 0:
                recovered = wording.percent(1 - pruned.layer_errors[i] / without, 0)
            row.append(Cell("Recovered by compensation", recovered))
        if pruned.alone:
            nats = {"divergence_alone_nats": pruned.alone[i]}
            row.append(Cell("Divergence alone, nats", f"{pruned.alone[i]:.4f}", nats))
        rows.append(row)
    output = "the projections'"
    if pruned.method.prunes_experts:
        output = "the experts'"
    elif pruned.method.is_structured:
        output = "the MLP's"
    caption = (
        f"Lost: squared error of {output} output, as a share of the dense output's, tokens weighted as in "
        "calibration. Divergence alone: KL of the next token from dense, had only this layer been cut."
    )
    return Table.of_cells("The layers of this model", caption, rows, stem=stem)


def _numbers(pruned: Pruned) -> list[Html]:
    """Figure cards of medians over the layers that were cut."""
    fitted = _of_cut(pruned, pruned.layer_errors)
    without = _of_cut(pruned, pruned.lost_without)
    recovered = [
        1 - error / raw for raw, error in zip(without, fitted, strict=False) if raw > 0
    ]
    held_out = median_error_ratio(_of_cut(pruned, pruned.held_out_errors), fitted)
    on_passages = median_error_ratio(_of_cut(pruned, pruned.passage_errors), fitted)
    ratios = {}
    if held_out:
        ratios["layer_errors"] = (
            f"{held_out:.2f}{wording.NBSP}× as much on held-out text"
        )
    if on_passages:
        ratios["passage_errors"] = (
            f"{on_passages:.2f}{wording.NBSP}× that on calibration text"
        )
    if recovered:
        share = wording.percent(median(recovered), 0)
        ratios["lost_without"] = f"compensation recovered {share} of it"
    drawn = []
    for name, field in _LOSSES.items():
        errors = _of_cut(pruned, getattr(pruned, field))
        if errors and not (field == "held_out_errors" and fitted):
            bounds = (
                f"from {wording.percent(min(errors))} to {wording.percent(max(errors))}"
            )
            basis = f"median of {_cut_words(pruned)}; {bounds}"
            ratio = (
                f"{ratios[field]}; median of each layer's own"
                if field in ratios
                else ""
            )
            middle = wording.percent(median(errors))
            drawn.append(card(name, middle, basis, ratio, css="sd-sparse"))
    if pruned.method.removes_experts:
        share = wording.percent(removed_choices(expert_uses(pruned)))
        title = "Choices of the removed experts"
        drawn.append(card(title, share, _removed_experts(pruned), css="sd-sparse"))
    return drawn


def _removed_experts(pruned: Pruned) -> str:
    """Number of experts removed, of how many, in all layers."""
    n_kept = sum(kept for kept, _ in pruned.kept_of_dense)
    n_dense = sum(dense for _, dense in pruned.kept_of_dense)
    return (
        f"of the dense router; {n_dense - n_kept:,} of {n_dense:,} experts are removed"
    )


def _show_experts(results: RunResults, record: Record, stem: str) -> None:
    """Draw how often each expert is chosen and which were removed, as a grid and as tables."""
    pruned = record.pruned
    assert pruned is not None, "the page shows sparse models"
    experts = expert_uses(pruned)
    title = "How often each expert is chosen"
    words = "Every expert is kept; the router chooses some more often than others."
    marks = "Stronger"
    if pruned.method.removes_experts:
        title = "Which experts were removed"
        removed = wording.percent(removed_choices(experts))
        words = f"Removed experts got {removed} of the dense router's choices."
        marks = "Full bar, blue: kept. Thin, orange: removed. Stronger"
    widgets.section(title)
    figure = experts_chart(pruned, experts, frame.theme())
    name = results.names[record.key]
    file = run_chart_file(results, f"{name}. {title}", name, "experts")
    show_chart(figure, file, words, "experts", "ignore")
    widgets.remark(
        f"{marks}: chosen more often by the dense model on calibration text, from ⅛ of an even "
        "share to 8 times as much."
    )
    if pruned.few_tokens:
        n_kept = sum(expert.is_kept for expert in chain.from_iterable(experts))
        template = _NOT_REFITTED if pruned.few_tokens > 1 else _ONE_NOT_REFITTED
        widgets.note(template.format(pruned.few_tokens, n_kept))
    with st.expander("The experts of a layer as a table"):
        layers = [index for index, layer in enumerate(experts) if layer]
        chosen = st.selectbox(
            "Layer", layers, format_func=_layer_number, key="experts-of"
        )
        widgets.show_table(layer_experts_table(experts, chosen or layers[0], stem))


def _layer_number(index: int) -> str:
    return str(index + 1)


def _show_shapes(backend: Backend, record: Record, stem: str) -> None:
    """Draw the table of shapes and bytes, or why there is none. stem: of its file's name."""
    pruned = record.pruned
    shape = backend.model_shape(record)
    assert pruned is not None, "the page shows sparse models"
    with st.expander("Shapes and bytes, before and after"):
        if shape is None or not block_shapes(shape, pruned):
            widgets.note(
                "The layer sizes are known once a run or a prompt has loaded this model again."
            )
            return
        widgets.show_table(shapes_table(shape, pruned, record.dtype, stem))
