"""The form of a search: what may be lost, by which method, and how sure it shall be."""

from dataclasses import replace

import streamlit as st

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.searches import FindSettings
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.service.backend import Backend
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance
from sparsedash.ui import frame
from sparsedash.ui.address_bar import asked
from sparsedash.ui.carried import tolerance_of
from sparsedash.ui.form import uploads
from sparsedash.ui.form.fields import CALIBRATION, PASSAGES, checked, group, hint, reference, whole
from sparsedash.ui.form.method_fields import choose_one, choose_own, say_methods
from sparsedash.ui.form.more_fields import (
    calibration_fields,
    number_fields,
    rule_field,
    shuffle_field,
    usual_calibration,
)
from sparsedash.ui.form.sureness import N_PASSAGES, choose_size, other_passages
from sparsedash.ui.form_address import OWN
from sparsedash.ui.tolerance import points_field, ratio_field

_MORE = (
    CALIBRATION.key,
    "samples",
    "length",
    "seed",
    "weights",
    "packed",
    "shuffle",
    "rule",
    "dtype",
    "width",
    "residency",
)
"""The fields under "More settings", by their names in the address."""


def find_settings(backend: Backend, model: str | None) -> FindSettings | None:
    """Draw what may be lost and how sure it shall be. Returns the search's settings, or None while a field is wrong;
    the error stands under that field.
    """
    tolerance = _tolerance()
    about_method = st.container()
    st.session_state.setdefault("another", any(map(asked, ("with", OWN))))
    with st.expander("Choose another method", key="another", on_change="rerun"):
        preset = choose_one()
        own = choose_own("Use a method of your own instead")
    frame.section("How sure?")
    sizes = st.container()
    with other_passages(N_PASSAGES):
        passages = reference(backend, PASSAGES)
        budget = _budget()
    st.session_state.setdefault("more", any(map(asked, _MORE)))
    with st.expander("More settings", key="more", on_change="rerun"):
        group("Calibration")
        calibration = calibration_fields(reference(backend, CALIBRATION, usual=usual_calibration(model)))
        group("Evaluation")
        shuffle = shuffle_field()
        rule = rule_field()
        group("Numbers")
        dtype, width, residency = number_fields()
    uploads.show_kept(backend, {field.key: field.choices[0].name for field in (PASSAGES, CALIBRATION)})
    with about_method:
        say_methods(own or (preset,))
    if not (model and own is not None and calibration and passages):
        choose_size(backend, sizes, None)
        return None
    method: MethodSettings = replace(own[0] if own else preset, width_multiple=width)
    with about_method:
        settings = checked(
            "with",
            lambda: FindSettings(
                model=model,
                dtype=dtype,
                method=method,
                calibration=calibration,
                evaluation=EvaluationSettings(corpus=passages, n_passages=budget, shuffle_seed=shuffle, rule=rule),
                ratio=tolerance.ratio,
                points=tolerance.points,
                residency=residency,
            ),
        )
    choose_size(backend, sizes, settings)
    return settings


def _tolerance() -> Tolerance:
    tolerance = tolerance_of(st.query_params)
    left, right = st.columns(2)
    with left:
        ratio_field("Word perplexity, at most times dense's", tolerance.ratio)
    with right:
        points_field("Accuracy, points lost at most", tolerance.points)
    return tolerance


def _budget() -> int | None:
    n = whole(
        N_PASSAGES,
        "Passages to answer, at most",
        1,
        10_000_000,
        None,
        "all",
        "The dense model answers all of them. A trial stops as soon as its verdict is beyond doubt; one that stays "
        "undecided counts as too much.",
    )
    if n is not None and n < FEWEST_PASSAGES:
        hint(f"With fewer than {FEWEST_PASSAGES} passages nothing is ever called within.")
    return n
