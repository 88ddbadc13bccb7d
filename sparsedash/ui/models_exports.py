"""Exports on the models page: the form that requests one, and the list of those written."""

from collections.abc import Collection, Sequence
from functools import partial
from typing import cast

import streamlit as st

from sparsedash.catalog.export_forms import (
    FORMS,
    LOST_WITHOUT_REFIT,
    MADE_GGUF,
    forms_filled_up,
    is_gguf,
)
from sparsedash.catalog.model_sizes import WEIGHT_BYTES
from sparsedash.reporting import wording
from sparsedash.reporting.deployment import (
    FORM_NAMES,
    export_title,
    proof_words,
    runtime_rows,
    savings,
    upload_command,
)
from sparsedash.reporting.html import Table, element, escape, paragraph
from sparsedash.reporting.run_results import RunResults, run_results, verdict_of
from sparsedash.reporting.verdicts import (
    accuracy_open,
    limits_sentence,
    model_verdict,
    verdict_sign,
)
from sparsedash.schema.export_settings import (
    Export,
    ExportSettings,
    Form,
    Weights,
    possible_weights,
)
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame, widgets
from sparsedash.ui.chosen_run import choose_record
from sparsedash.ui.navigation import current_tolerance

_HEAD = ["Runtime", "Result", "Why"]
_REFITTED = (
    "Refitted experts cannot be written as-stored. Those of reap can: it refits nothing, and lost "
    f"{LOST_WITHOUT_REFIT} at 50 % on mixtures trained for the comparison."
)
_COARSE = (
    "Quantised as llama.cpp does. q6_k and q4_k_m take rows that are multiples of 256, others fall back to a larger "
    "type: prune with widths in multiples of 256. The sparsity reached may then differ from the one asked for by up "
    "to half a multiple."
)


def exports_sentence(exports: list[Export]) -> str:
    """Number of exported models, and the size of the smallest; without any, an invitation."""
    if not exports:
        return "Export a sparse model."
    smallest = min(export.n_bytes / export.base_bytes for export in exports)
    share = wording.percent(smallest, 0)
    if len(exports) == 1:
        return f"One model is exported; it takes {share} of its dense model."
    return f"{len(exports)} models are exported; the smallest takes {share} of its dense model."


def show_export(backend: Backend, export: Export) -> None:
    """Draw an export: size, proof, where it loads, the command to the hub, and its deletion."""
    with st.container(
        border=True,
        key=f"export-{export.key[:16]}",
        gap="xsmall",
    ):
        title = export_title(export, backend.record(export.settings.sparse))
        share = wording.percent(export.n_bytes / export.base_bytes, 0)
        facts = [
            FORM_NAMES[export.form],
            export.settings.weights,
            f"{wording.size(export.n_bytes)}, {share} of the dense model in {export.settings.base_weights}",
            wording.moment(export.made_at, frame.zone()),
        ]
        widgets.show(
            element("p", escape(title), css="sd-job-title"),
            paragraph(" · ".join(facts), css="sd-muted sd-small"),
            paragraph(_card_verdict(backend, export), css="sd-small"),
            paragraph(f"✓ {proof_words(export.proof)}", css="sd-small"),
            paragraph(f"In the files: {export.layout}.", css="sd-muted sd-small"),
            paragraph(export.folder, css="sd-muted sd-small"),
        )
        if export.form == "masked":
            widgets.remark("Zeros alone give no speed-up.")
        with st.expander("Where it loads"):
            caption = (
                "“Proven” means that a fresh process loaded the files here. All other rows follow "
                "from the runtimes' source code."
            )
            table = Table("Where it loads", caption, _HEAD, runtime_rows(export))
            widgets.show(element("div", table.html, css="sd-wrapped"))
            widgets.offer_table(table, key=export.key[:16])
        with st.expander("Upload to the hub"):
            widgets.note(
                "SparseDash uploads nothing. In a shell in the folder above, after hf auth login:"
            )
            st.code(upload_command(export), language="sh", wrap_lines=True)
        if backend.exports.may_delete(export):
            question = f"Delete this folder of {wording.size(export.n_bytes)}? This cannot be undone. The run stays."
            drop = partial(backend.exports.drop, export.key)
            widgets.delete_button(f"delete-export-{export.key[:16]}", question, drop)
        else:
            widgets.note(
                "This export belongs to another user or lies outside the data folder, so it cannot be deleted here."
            )


def _card_verdict(backend: Backend, export: Export) -> str:
    """The verdict on the export's card with its limits; empty where its run is gone."""
    settings = export.settings
    results = run_results(backend, backend.run(settings.run), settings.tolerance)
    for model in results.sparse_models if results else ():
        if model.record.key == settings.sparse:
            verdict = model.verdict
            sentence = limits_sentence(verdict, settings.tolerance)
            if settings.tolerance != current_tolerance():
                sentence += " This page uses other limits."
            return f"Model card: {verdict_sign(verdict)}{accuracy_open(verdict)}. {sentence}"
    return ""


def request_export(backend: Backend, results: RunResults) -> None:
    """Draw the choices of model, form and number format, and the button that exports."""
    if results.run.made_on:
        widgets.note(
            "The example's models cannot be exported: their statistics do not ship. Run it here first."
        )
        return
    model_choice, form_choice, number_choice = st.columns([2, 2, 1])
    with model_choice:
        record = choose_record(results)
    verdict = verdict_of(results, results.dense, record)
    sentence, *basis = model_verdict(
        results.names[record.key], verdict, results.tolerance
    )
    widgets.show(
        paragraph(sentence), paragraph(" ".join(basis), css="sd-muted sd-small")
    )
    problems = backend.exports.problems(record)
    possible: list[Form] = [form for form in FORMS if not problems[form]]
    if not possible:
        for problem in dict.fromkeys(problems.values()):
            widgets.remark(f"Not possible: {problem}.")
        return
    assert record.pruned is not None, "only sparse models are offered"
    named = backend.named_model(record.model)
    filled_up = forms_filled_up(record.pruned, named.shape if named else None)
    with form_choice:
        form = _choose_form(possible, filled_up)
    with number_choice:
        number_format = _choose_number_format(record, record.pruned.method, form)
    widgets.remark(f"{wording.first_upper(FORMS[form])}.")
    is_padded = form in filled_up
    saves = _saving_words(backend, results, record, number_format, is_padded=is_padded)
    if results.run.source_type and number_format in WEIGHT_BYTES and "gguf" in possible:
        saves.append("quantised GGUF files are smaller")
    if verdict.verdict == "beyond":
        saves.insert(0, "✕ beyond your limit")
    dense_gguf = ""
    if number_format.startswith("q"):
        widgets.remark(_COARSE)
    if form == "gguf" and not is_gguf(record.model):
        dense_gguf = _dense_gguf_field(named is not None and named.family in MADE_GGUF)
    for impossible, problem in problems.items():
        if problem:
            widgets.remark(f"Not possible as {impossible}: {problem}.")
    # Settings are checked when the button is pressed, which shows what is wrong.
    settings = partial(
        ExportSettings,
        run=results.run.key,
        dense=results.run.dense,
        sparse=record.key,
        form=form,
        weights=number_format,
        tolerance=results.tolerance,
        dense_gguf=dense_gguf,
    )
    with widgets.row("export"):
        widgets.action_button(
            "Export", lambda: backend.submit(settings()), kind="primary"
        )
        widgets.remark(wording.first_upper(f"{'; '.join(saves)}."))


def _choose_form(possible: Sequence[Form], filled_up: Collection[Form]) -> Form:
    """The form chosen of the possible ones; usually the first that is smaller than dense."""
    usual_forms = [form for form in possible if form not in ("masked", *filled_up)]
    usual_form = [*usual_forms, *possible][0]
    shown = {str(form): f"{form}: {FORM_NAMES[form]}" for form in possible}
    return cast(
        Form, address_bar.select("form", "Form", shown, usual_form, noun="form")
    )


def _choose_number_format(
    record: Record, method: MethodSettings, form: Form
) -> Weights:
    """The number format chosen of those that the form has; usually that of the run."""
    weights = _number_formats(record, method, form)
    usual = record.dtype if record.dtype in weights else "float32"
    return st.selectbox(
        "Numbers",
        weights,
        index=weights.index(cast(Weights, usual)),
        key="export-weights",
        bind=address_bar.BOUND,
    )


def _saving_words(
    backend: Backend,
    results: RunResults,
    record: Record,
    number_format: Weights,
    *,
    is_padded: bool,
) -> list[str]:
    """Savings of an export. is_padded: its blocks have the dense width."""
    if is_padded:
        return ["saves nothing: all blocks are padded to the dense width"]
    models = {model.record.key: model for model in results.sparse_models}
    return savings(backend, results, models[record.key], number_format)


def _number_formats(
    record: Record, method: MethodSettings, form: Form
) -> tuple[Weights, ...]:
    """The number formats in which a model can be exported; says why the stored one cannot be."""
    weights = possible_weights(form)
    removes_stored_experts = is_gguf(record.model) and method.removes_experts
    if removes_stored_experts and not method.refits:
        return weights
    if removes_stored_experts and "as-stored" in weights:
        widgets.remark(_REFITTED)
    return tuple(name for name in weights if name != "as-stored")


def _dense_gguf_field(is_optional: bool) -> str:
    """Draw the field of a GGUF file of the dense model, and return its path."""
    label = (
        "A GGUF file of the dense model on this server, with F32, F16 or BF16 weights"
    )
    about = "Its tokenizer is copied into the export."
    if is_optional:
        label += ", if you have one"
        about += " Without one it is made of the model's folder."
    path = st.text_input(
        label, key="dense-gguf", placeholder="/models/dense-f16.gguf", help=about
    )
    return path.strip()
