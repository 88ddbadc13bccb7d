"""The form: its three questions, and the fields of a run of given sparsities."""

import streamlit as st

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from sparsedash.schema.searches import FindSettings
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.service.backend import Backend
from sparsedash.ui import frame
from sparsedash.ui.address_bar import BOUND, asked
from sparsedash.ui.form import uploads
from sparsedash.ui.form.fields import CALIBRATION, MODEL, PASSAGES, checked, group, hint, reference, whole
from sparsedash.ui.form.find_form import find_settings
from sparsedash.ui.form.method_fields import all_of, choose_masks, choose_own, choose_presets, say_methods
from sparsedash.ui.form.model_facts import show_facts
from sparsedash.ui.form.more_fields import (
    calibration_fields,
    number_fields,
    rule_field,
    shuffle_field,
    usual_calibration,
)
from sparsedash.ui.form.sureness import choose_size, other_passages
from sparsedash.ui.form_address import GOALS, MASKS, OWN, SEARCH, SWEEP

DEFAULT_SPARSITIES = "10, 20, 30"
_FIRST_METHOD, _FIRST_SPARSITIES, _FIRST_SAMPLES = "least-squares", (100, 200), 64

_MORE = (
    CALIBRATION.key,
    "samples",
    "length",
    "seed",
    "weights",
    "packed",
    "passages",
    "shuffle",
    "stop",
    "rule",
    "dtype",
    "residency",
    "width",
)
"""The fields under "More settings", by their names in the address."""


def first_run() -> RunSettings:
    """What "Try the built-in model" asks for: the usual method on text that ships with the program, quickly.

    Half the usual text, two sparsities, and the quickest method that refits, which on such text loses little more than
    the recommended one: a first look. The page warns that more text makes the fit steadier.
    """
    text = CalibrationSettings(corpus=usual_calibration(BUILTIN_MODEL), n_samples=_FIRST_SAMPLES)
    return RunSettings(methods=(method_named(_FIRST_METHOD),), sparsities_permille=_FIRST_SPARSITIES, calibration=text)


def asked_settings(backend: Backend) -> RunSettings | FindSettings | None:
    """Draw the three questions. Returns what they ask for; None while that is wrong."""
    frame.section("Which model?")
    model = reference(backend, MODEL)
    if model is not None:
        show_facts(backend, model)
    frame.section("How much, or how much may be lost?")
    goal = st.segmented_control(
        "What to do", GOALS, default=SWEEP, key="goal", bind=BOUND, required=True, label_visibility="collapsed"
    )
    return find_settings(backend, model) if goal == SEARCH else run_settings(backend, model)


def run_settings(backend: Backend, model: str | None) -> RunSettings | None:
    """Draw how much shall go and how sure it shall be. Returns the run's settings, or None while a field is wrong; the
    error stands under it.
    """
    sparsities = _sparsities()
    about_sweep = st.container()
    about_methods = st.container()
    st.session_state.setdefault("race", any(map(asked, ("method", MASKS, OWN))))
    with st.expander("Race several methods, or choose another", key="race", on_change="rerun"):
        presets = choose_presets()
        masks = choose_masks()
        own = choose_own()
    frame.section("How sure?")
    sizes = st.container()
    with other_passages():
        passages = reference(backend, PASSAGES)
    # Open where the address says something in it, and from then on as the visitor leaves it.
    st.session_state.setdefault("more", any(map(asked, _MORE)))
    with st.expander("More settings", key="more", on_change="rerun"):
        group("Calibration")
        calibration = calibration_fields(reference(backend, CALIBRATION, usual=usual_calibration(model)))
        group("Evaluation")
        evaluation = _evaluation(passages)
        group("Numbers")
        dtype, width_multiple, residency = number_fields()
    uploads.show_kept(backend, {field.key: field.choices[0].name for field in (PASSAGES, CALIBRATION)})
    with about_methods:
        methods = all_of((*presets, *masks), own, width_multiple)
        say_methods((*presets, *masks, *(own or ())))
    if not (model and methods and sparsities and calibration and evaluation):
        choose_size(backend, sizes, None)
        return None
    with about_sweep:
        settings = checked(
            "sparsity",
            lambda: RunSettings(
                model=model,
                dtype=dtype,
                methods=methods,
                sparsities_permille=sparsities,
                calibration=calibration,
                evaluation=evaluation,
                residency=residency,
            ),
        )
        if settings is not None:
            _say_sweep(settings)
    choose_size(backend, sizes, settings)
    return settings


def _sparsities() -> tuple[int, ...] | None:
    text = st.text_input(
        "Share of MLP channels to remove, percent",
        DEFAULT_SPARSITIES,
        key="sparsity",
        bind=BOUND,
        max_chars=300,
        help="One or several, 0 to 90, in tenths at the finest. One calibration serves them all; some methods read "
        "the text again for each.",
    )
    return checked("sparsity", lambda: RunSettings(sparsities_permille=parse_percents(text or "")).sparsities_permille)


def _say_sweep(settings: RunSettings) -> None:
    """What the request makes, where that is more than one reads off the form."""
    n_methods, n_sparsities = len(settings.methods), len(settings.sparsities_permille)
    n = settings.n_sparse
    if n_methods > 1:
        hint(
            f"{n_methods} methods at {n_sparsities} {'sparsity' if n_sparsities == 1 else 'sparsities'}: "
            f"{n} sparse {wording.plural(n, 'model')} on one calibration, in one job."
        )
    for method in settings.methods:
        own = method.sparsities(settings.sparsities_permille)
        if own != settings.sparsities_permille:
            hint(f"{wording.method(method)}: {wording.permilles(own)}, which its pattern decides.")


def _evaluation(corpus: str | None) -> EvaluationSettings | None:
    left, right = st.columns(2)
    with left:
        n_passages = whole("passages", "How many passages", 1, 10_000_000, None, "all")
    with right:
        shuffle = shuffle_field()
    stop_early = st.toggle(
        "Stop evaluating a sparse model once its difference from dense is decided",
        key="stop",
        bind=BOUND,
        help="Saves time where the answer is clear. Such a model answers fewer passages, and its mark is hollow.",
    )
    rule = rule_field()
    if corpus is None:
        return None
    return EvaluationSettings(
        corpus=corpus, n_passages=n_passages, shuffle_seed=shuffle, rule=rule, stop_early=bool(stop_early)
    )
