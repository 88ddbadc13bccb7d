"""What was taken away: each export with its size, its proof, where it loads, and the way to the hub."""

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.reporting.files.export_words import FORM_NAMES, export_title, proof_words, runtimes, upload_command
from sparsedash.reporting.html import element, escape, paragraph, table
from sparsedash.schema.exports import Export
from sparsedash.service.backend import Backend
from sparsedash.ui import frame

_WHERE = {"proven here": "✓ proven here", "should load": "should load", "cannot": "✕ cannot"}


def sentence(exports: list[Export]) -> str:
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
            _draw(backend, export)


def _draw(backend: Backend, export: Export) -> None:
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
        rows = [[row.runtime, _WHERE[row.loads], row.why] for row in runtimes(export)]
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
