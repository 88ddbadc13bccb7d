"""Which passages break: groups of them with what each lost, worked out when somebody opens it."""

import streamlit as st

from sparsedash.reporting.passages.slice_table import slice_file, slice_losses, slice_table
from sparsedash.reporting.record_pair import Pair
from sparsedash.schema.records import Passages
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.address_bar import BOUND


def show_breaking(backend: Backend, pair: Pair, passages: Passages) -> None:
    """Draw the groups of passages and what they lost, as soon as they are opened; the address says whether they are."""
    box = st.expander("Which passages break?", key="groups", on_change="rerun", bind=BOUND)
    if box.open:
        with box:
            found = slice_losses(backend, pair, passages)
            frame.show(slice_table(found, pair.right_name, pair.left_name))
            frame.offer_table(slice_file(found, pair.right_name, pair.left_name))
