"""What is asked for: the form and the numbers of one sparse model's files."""

from functools import partial

import streamlit as st

from sparsedash.catalog.export_forms import FORMS
from sparsedash.reporting.files.export_words import FORM_NAMES
from sparsedash.reporting.html import paragraph
from sparsedash.reporting.run_results import RunResults
from sparsedash.schema.exports import ExportSettings, Form, possible_weights
from sparsedash.schema.records import Record
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.service.backend import Backend
from sparsedash.ui import address_bar, frame

_COARSE = (
    "llama.cpp's smaller types want widths that are multiples of 256. Prune with that multiple to quantise further; "
    "each width is then rounded to the nearest, and what is reached may be off by half a step."
)


def ask_for_files(backend: Backend, found: RunResults) -> None:
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
    st.button("Write the files", type="primary", on_click=frame.attempt, args=(partial(_ask, backend, request),))


def title(found: RunResults) -> str:
    """The run in a few words."""
    return found.title


def _ask(backend: Backend, request: dict[str, str]) -> None:
    backend.submit_export(ExportSettings(**request))  # type: ignore[arg-type]


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
