"""The exports on the models page: the form that asks for one, and the list of those written."""

from functools import partial

import streamlit as st

from sparsedash.catalog.families import FORMS
from sparsedash.reporting import wording
from sparsedash.reporting.deployment import FORM_NAMES, export_title, proof_words, runtime_rows, upload_command
from sparsedash.reporting.html import element, escape, paragraph, table
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.export_settings import Export, ExportSettings, Form, possible_weights
from sparsedash.schema.records import Record
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame

_WHERE = {"proven here": "✓ proven here", "should load": "should load", "cannot": "✕ cannot"}


def exports_sentence(exports: list[Export]) -> str:
    """The page's answer."""
    if not exports:
        return "No model has been exported yet."
    smallest = min(export.n_bytes / export.base_bytes for export in exports if export.base_bytes)
    few = "One model is" if len(exports) == 1 else f"{len(exports)} models are"
    return f"{few} exported; the smallest takes {wording.percent(smallest, 0)} of its dense model."


def list_exports(backend: Backend, exports: list[Export]) -> None:
    """Draw every export, newest first."""
    for export in exports:
        with st.container(border=True, key=f"export-{export.key[:16]}", gap="xsmall"):
            _draw_export(backend, export)


def _draw_export(backend: Backend, export: Export) -> None:
    title = export_title(export, backend.record(export.settings.sparse))
    size = f"{wording.size(export.n_bytes)}, {_share(export)}"
    facts = (
        f"{FORM_NAMES[export.form]} · {export.settings.weights} · {size} · "
        f"{wording.moment(export.made_at, frame.zone())}"
    )
    frame.show(
        element("p", escape(title), css="sd-job-title"),
        paragraph(facts, css="sd-muted sd-small"),
        paragraph(f"✓ {proof_words(export.proof)}", css="sd-small"),
        paragraph(f"In the files: {export.layout}.", css="sd-muted sd-small"),
        paragraph(export.folder, css="sd-muted sd-small"),
    )
    if export.form == "masked":
        frame.show(paragraph("Zeros alone make no model faster: no speed-up is expected.", css="sd-muted sd-small"))
    with st.expander("Where it loads"):
        rows = [[row.runtime, _WHERE[row.loads], row.why] for row in runtime_rows(export)]
        drawn = table("Where it loads", "A fresh process was asked here; the rest is by the source.", _HEAD, rows)
        frame.show(element("div", drawn.html, css="sd-wrapped"))
        frame.offer_table(drawn, key=export.key[:16])
    with st.expander("Take it to the hub"):
        frame.note("Nothing is uploaded from here. In a shell of your own, logged in by hf auth login:")
        st.code(upload_command(export), language="sh", wrap_lines=True)
    if backend.exports.is_ours(export):
        st.button(
            "Delete",
            key=f"delete-export-{export.key[:16]}",
            type="tertiary",
            icon=":material/delete:",
            on_click=frame.attempt,
            args=(lambda: backend.exports.drop(export.key),),
        )
    else:
        frame.note("It lies outside of the data folder: delete it in a shell.")


_HEAD = ["Runtime", "Result", "Why"]


def _share(export: Export) -> str:
    share = wording.percent(export.n_bytes / export.base_bytes, 0) if export.base_bytes else "not known how much"
    return f"{share} of the dense model in the same numbers"


_COARSE = (
    "llama.cpp's smaller types want widths that are multiples of 256. Prune with that multiple to quantise further; "
    "each width is then rounded to the nearest, and what is reached may be off by half a step."
)


def request_export(backend: Backend, found: RunResults) -> None:
    """Draw the choice among the run's sparse models, of form and numbers, and the button; a reason for the example."""
    if found.run.made_on:
        frame.note("No model of the example can be made again here: its statistics do not ship. Run it here first.")
        return
    sparse = {name: record for name, record in found.records.items() if record.pruned}
    left, middle, right = st.columns([2, 2, 1])
    with left:
        names = {name: name for name in sparse}
        record = sparse[address_bar.select("record", "Sparse model", names, list(names)[-1], noun="model")]
    problems = backend.exports.problems(record)
    possible: list[Form] = [form for form in FORMS if not problems[form]]
    with middle:
        shown = {str(form): f"{form}: {FORM_NAMES[form]}" for form in possible}
        chosen = address_bar.select("form", "Form", shown, possible[0], noun="form")
        form = next(form for form in possible if form == chosen)
    with right:
        usual = record.dtype if record.dtype in possible_weights(form) else "float32"
        types = {str(weights): str(weights) for weights in possible_weights(form)}
        chosen = address_bar.select("weights", "Numbers", types, usual)
    frame.show(paragraph(f"{_capital(FORMS[form])}.", css="sd-muted sd-small"))
    dense = _dense_gguf(record, form)
    for other, why in problems.items():
        if why:
            frame.show(paragraph(f"Not as {other}: {why}.", css="sd-muted sd-small"))
    weights = next(weights for weights in possible_weights(form) if weights == chosen)
    request = {"run": found.run.key, "dense": found.run.dense, "sparse": record.key, "form": form}
    request |= {"weights": weights, "dense_gguf": dense}
    st.button(
        "Write the files", type="primary", on_click=frame.attempt, args=(partial(_submit_export, backend, request),)
    )


def exported_run_title(found: RunResults) -> str:
    """The run in a few words."""
    return found.title


def _submit_export(backend: Backend, request: dict[str, str]) -> None:
    backend.submit(ExportSettings(**request))  # type: ignore[arg-type]


def _dense_gguf(record: Record, form: Form) -> str:
    """The dense model's GGUF file, asked for where one is needed."""
    if form != "gguf":
        return ""
    frame.show(paragraph(_COARSE, css="sd-muted sd-small"))
    if record.model == BUILTIN_MODEL or record.model.endswith(".gguf"):
        return ""
    typed = st.text_input(
        "A GGUF file of the dense model on this server, with F32, F16 or BF16 weights",
        key="dense-gguf",
        placeholder="/models/dense-f16.gguf",
        help="Its tokenizer's part is copied; nothing here writes one.",
    )
    return typed.strip()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
