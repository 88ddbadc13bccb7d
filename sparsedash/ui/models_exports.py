"""The exports on the models page: the form that asks for one, and the list of those written."""

from functools import partial
from typing import cast

import streamlit as st

from sparsedash.catalog.families import FORMS, MADE_GGUF, forms_filled_up, is_gguf
from sparsedash.reporting import wording
from sparsedash.reporting.deployment import (
    FORM_NAMES,
    export_title,
    proof_words,
    runtime_rows,
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
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame
from sparsedash.ui.chosen_run import choose_record
from sparsedash.ui.navigation import current_tolerance

_HEAD = ["Runtime", "Result", "Why"]
_COARSE = (
    "Quantised as llama.cpp does. q6_k and q4_k_m take rows that are multiples of 256, others fall back to a larger "
    "type: prune with widths in multiples of 256. The sparsity reached may then differ from the one asked for by up "
    "to half a multiple."
)


def exports_sentence(exports: list[Export]) -> str:
    """How many models are exported, and how small the smallest is."""
    if not exports:
        return "No exported model is kept."
    smallest = min(export.n_bytes / export.base_bytes for export in exports)
    few = "One model is" if len(exports) == 1 else f"{len(exports)} models are"
    which = "it" if len(exports) == 1 else "the smallest"
    return f"{few} exported; {which} takes {wording.percent(smallest, 0)} of its dense model."


def show_export(backend: Backend, export: Export) -> None:
    """Draw an export: size, proof, where it loads, the command to the hub, and its deletion."""
    with st.container(border=True, key=f"export-{export.key[:16]}", gap="xsmall"):
        title = export_title(export, backend.record(export.settings.sparse))
        share = wording.percent(export.n_bytes / export.base_bytes, 0)
        facts = [
            FORM_NAMES[export.form],
            export.settings.weights,
            f"{wording.size(export.n_bytes)}, {share} of the dense model in {export.settings.base_weights}",
            wording.moment(export.made_at, frame.zone()),
        ]
        frame.show(
            element("p", escape(title), css="sd-job-title"),
            paragraph(" · ".join(facts), css="sd-muted sd-small"),
            paragraph(_card_verdict(backend, export), css="sd-small"),
            paragraph(f"✓ {proof_words(export.proof)}", css="sd-small"),
            paragraph(f"In the files: {export.layout}.", css="sd-muted sd-small"),
            paragraph(export.folder, css="sd-muted sd-small"),
        )
        if export.form == "masked":
            frame.remark("Zeros alone give no speed-up.")
        with st.expander("Where it loads"):
            caption = (
                "Proven: loaded here by a fresh process. The rest is by the runtimes' source code."
            )
            drawn = Table("Where it loads", caption, _HEAD, runtime_rows(export))
            frame.show(element("div", drawn.html, css="sd-wrapped"))
            frame.offer_table(drawn, key=export.key[:16])
        with st.expander("Upload to the hub"):
            frame.note("SparseDash uploads nothing. In your own shell, after hf auth login:")
            st.code(upload_command(export), language="sh", wrap_lines=True)
        if backend.exports.is_ours(export):
            question = f"Delete this folder of {wording.size(export.n_bytes)}? This cannot be undone. The run stays."
            drop = partial(backend.exports.drop, export.key)
            frame.delete_button(f"delete-export-{export.key[:16]}", question, drop)
        else:
            frame.note("Another user's, or outside the data folder; it cannot be deleted here.")


def _card_verdict(backend: Backend, export: Export) -> str:
    """The verdict on the export's card, and by which limits; nothing where its run is gone."""
    asked = export.settings
    limits = asked.tolerance
    results = run_results(backend, backend.run(asked.run), limits)
    judged = results.judged if results else ()
    found = next((each.verdict for each in judged if each.record.key == asked.sparse), None)
    if found is None:
        return ""
    now = "" if limits == current_tolerance() else " This page uses other limits."
    return f"Model card: {verdict_sign(found)}{accuracy_open(found)}. {limits_sentence(found, limits)}{now}"


def request_export(backend: Backend, found: RunResults) -> None:
    """Draw the choice among the run's sparse models, of form and numbers, and the button; a reason
    for the example.
    """
    if found.run.made_on:
        frame.note(
            "The example's models cannot be exported: their statistics do not ship. Run it here first."
        )
        return
    left, middle, right = st.columns([2, 2, 1])
    with left:
        record = choose_record(found)
    name = found.names[record.key]
    sentence, *basis = model_verdict(name, verdict_of(found, found.dense, record), found.tolerance)
    frame.show(paragraph(sentence), paragraph(" ".join(basis), css="sd-muted sd-small"))
    problems = backend.exports.problems(record)
    possible: list[Form] = [form for form in FORMS if not problems[form]]
    if not possible:
        for why in dict.fromkeys(problems.values()):
            frame.remark(f"Not possible: {why}.")
        return
    assert record.pruned is not None, "only sparse models are offered"
    named = backend.named_model(record.model)
    filled_up = forms_filled_up(record.pruned, named.family if named else None)
    usual_form = next(
        (form for form in possible if form not in ("masked", *filled_up)), possible[0]
    )
    with middle:
        shown = {str(form): f"{form}: {FORM_NAMES[form]}" for form in possible}
        form = cast(Form, address_bar.select("form", "Form", shown, usual_form, noun="form"))
    weights = possible_weights(form)
    with right:
        usual = record.dtype if record.dtype in weights else "float32"
        chosen = address_bar.select(
            "weights", "Numbers", {str(each): str(each) for each in weights}, usual
        )
    frame.remark(f"{wording.first_upper(FORMS[form])}.")
    if form in filled_up:
        frame.note("Saves nothing here: all blocks are padded to the dense width.")
    dense_gguf = ""
    if form == "gguf":
        frame.remark(_COARSE)
        if not is_gguf(record.model):
            label = "A GGUF file of the dense model on this server, with F32, F16 or BF16 weights"
            about, example = "Its tokenizer is copied into the export.", "/models/dense-f16.gguf"
            if named is not None and named.family in MADE_GGUF:
                label, about = (
                    f"{label}, if you have one",
                    f"{about} Without one it is made of the model's folder.",
                )
            dense_gguf = st.text_input(
                label, key="dense-gguf", placeholder=example, help=about
            ).strip()
    for other, why in problems.items():
        if why:
            frame.remark(f"Not possible as {other}: {why}.")

    asked = partial(
        ExportSettings, run=found.run.key, dense=found.run.dense, sparse=record.key, form=form
    )
    asked = partial(asked, weights=cast(Weights, chosen), tolerance=found.tolerance)
    asked = partial(asked, dense_gguf=dense_gguf)
    frame.action_button("Export", lambda: backend.submit(asked()), kind="primary")
