"""Shapes and bytes of a sparse model on the layers page."""

import streamlit as st

from sparsedash.reporting.gains.shapes import block_shapes, shapes_csv, shapes_table
from sparsedash.schema.records import Record
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.serving import visitor


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
            mime=visitor.media_type("text/csv"),
            on_click="ignore",
            key="take-shapes",
            icon=":material/download:",
        )
