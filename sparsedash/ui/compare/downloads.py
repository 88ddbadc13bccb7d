"""The downloads of the compare page. A file is made when its button is pressed, not before."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from sparsedash.reporting.files.html_report import report
from sparsedash.reporting.files.sample_files import harness_samples, view_csv, view_parquet
from sparsedash.reporting.files.written import written
from sparsedash.reporting.html import label
from sparsedash.reporting.record_pair import Kind, Pair
from sparsedash.reporting.run_results import run_results
from sparsedash.reporting.side_by_side import side_title
from sparsedash.schema.records import Passages, Run
from sparsedash.service.backend import Backend
from sparsedash.ui.carried import tolerance
from sparsedash.ui.serving import visitor


def offer_files(
    backend: Backend, run: Run, pair: Pair, passages: Passages | None, view: tuple[Kind, Sequence[int]]
) -> None:
    """Draw the download buttons. view: the kind that is shown and its passages."""
    kind, positions = view
    named = f"{kind}-{pair.right.key[:8]}"
    view_of_pair = (pair.left, pair.right, positions, passages)
    with st.popover("Download", icon=":material/download:"):
        _button("Report, one HTML file", "report.html", "text/html", partial(_report, backend, run, pair, passages))
        shown = f"These {len(positions):,} passages"
        _button(f"{shown}, CSV", f"{named}.csv", "text/csv", partial(view_csv, *view_of_pair))
        _button(
            f"{shown}, parquet",
            f"{named}.parquet",
            "application/vnd.apache.parquet",
            partial(view_parquet, *view_of_pair),
        )
        if passages is None:
            return
        for side, name, record in (("left", pair.left_name, pair.left), ("right", pair.right_name, pair.right)):
            _button(
                f"All samples of {side_title(name, record)}, as lm-evaluation-harness writes them",
                f"samples-{side}.jsonl",
                "application/jsonl",
                partial(harness_samples, record, passages),
            )


def _report(backend: Backend, run: Run, pair: Pair, passages: Passages | None) -> bytes:
    found = run_results(backend, run, tolerance(), backend.user_data.name_of(run.key))
    assert found is not None, "the page has read the dense record already"
    wrote = written(backend, run, pair, passages)
    return report(found, pair, passages, backend.newest_job(run.key), wrote)


def _button(text: str, name: str, mime: str, made: partial[bytes]) -> None:
    st.download_button(
        label(text),
        data=made,
        file_name=f"sparsedash-{name}",
        mime=visitor.media_type(mime),
        on_click="ignore",
        key=f"take-{name}",
        width="stretch",
    )
