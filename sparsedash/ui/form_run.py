"""The form of the prune page: model, sparsities or a search for the largest one, passages, and more settings."""

from dataclasses import dataclass, replace
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from sparsedash.schema.fields import field_rows
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    BUILTIN_TEXT,
    SELF,
    CalibrationSettings,
    EvaluationSettings,
    FindSettings,
    RunSettings,
    parse_percents,
)
from sparsedash.service.backend import Backend
from sparsedash.service.request_checks import is_hub_id
from sparsedash.stats.tolerance import FEWEST_PASSAGES
from sparsedash.ui import frame
from sparsedash.ui.address_bar import BOUND, tolerance_field
from sparsedash.ui.form_address import GOALS, MASKS, OWN, SEARCH, SWEEP
from sparsedash.ui.form_estimate import evaluation_size_field, other_passages_expander
from sparsedash.ui.form_fields import (
    expander,
    group_heading,
    reference_field,
    setting_field,
    setting_fields,
    show_hint,
    show_uploads,
    validated,
)
from sparsedash.ui.form_method import (
    chosen_methods,
    custom_method_fields,
    describe_methods,
    preset_fields,
    search_preset_field,
)
from sparsedash.ui.navigation import parse_tolerance

_RUN, _METHOD = field_rows(RunSettings), field_rows(MethodSettings)
_CALIBRATION, _EVALUATION = field_rows(CalibrationSettings), field_rows(EvaluationSettings)
_NUMBERS = (_RUN["dtype"], _METHOD["width_multiple"], _RUN["residency"])

_FIRST_SPARSITIES = "10, 20, 30"
"""What the form begins with: one more than a command takes by itself."""


@dataclass(frozen=True, kw_only=True)
class _SharedFields:
    """Settings that a run and a search have in common; None where a field is wrong. sizes: where these are drawn."""

    sizes: DeltaGenerator
    calibration: CalibrationSettings | None
    evaluation: EvaluationSettings | None
    width_multiple: int
    numbers: dict[str, Any]


def first_run_settings() -> RunSettings:
    """The settings of "Try the built-in model": a quick first look, on text that ships with the program.

    Half the usual text, two sparsities, and the quickest method that refits, which on such text loses little more than
    the recommended one. The page warns that more text makes the fit steadier.
    """
    return RunSettings(
        methods=(method_named("least-squares"),),
        sparsities_permille=(100, 200),
        calibration=CalibrationSettings(corpus=_usual_calibration(BUILTIN_MODEL), n_samples=64),
    )


def _usual_calibration(model: str | None) -> str:
    """The calibration text that the form begins with: that of the built-in model is there already."""
    return BUILTIN_TEXT if model == BUILTIN_MODEL else SELF


def prune_form(backend: Backend) -> RunSettings | FindSettings | None:
    """Draw the form. Returns its settings, or None while a field is wrong; the error is under that field."""
    frame.section("Which model?")
    model = reference_field(backend, _RUN["model"])
    if model is not None:
        _show_model_facts(backend, model)
    frame.section("How much to remove?")
    goal = st.segmented_control(
        "What to do", GOALS, default=SWEEP, key="goal", bind=BOUND, required=True, label_visibility="collapsed"
    )
    return _search_form(backend, model) if goal == SEARCH else _run_form(backend, model)


def _run_form(backend: Backend, model: str | None) -> RunSettings | None:
    sparsities = _sparsities_field()
    about_sweep, about_methods = st.container(), st.container()
    with expander("Race several methods, or choose another", "race", ("method", MASKS, OWN)):
        presets = preset_fields()
        own = custom_method_fields()
    shared = _shared_fields(backend, model, search=False)
    with about_methods:
        methods = chosen_methods(presets, own, shared.width_multiple)
        describe_methods((*presets, *(own or ())))
    settings, calibration, evaluation = None, shared.calibration, shared.evaluation
    if model and methods and sparsities and calibration and evaluation:
        with about_sweep:
            settings = validated(
                "sparsity",
                lambda: RunSettings(
                    model=model,
                    methods=methods,
                    sparsities_permille=sparsities,
                    calibration=calibration,
                    evaluation=evaluation,
                    **shared.numbers,
                ),
            )
            _show_sweep(settings)
    evaluation_size_field(backend, shared.sizes, settings)
    return settings


def _search_form(backend: Backend, model: str | None) -> FindSettings | None:
    tolerance = parse_tolerance(st.query_params)
    left, right = st.columns(2)
    with left:
        tolerance_field("ratio", tolerance.ratio)
    with right:
        tolerance_field("points", tolerance.points)
    about_method = st.container()
    with expander("Choose another method", "another", ("with", OWN)):
        preset = search_preset_field()
        own = custom_method_fields("Use a method of your own instead")
    shared = _shared_fields(backend, model, search=True)
    settings, calibration, evaluation = None, shared.calibration, shared.evaluation
    with about_method:
        describe_methods(own or (preset,))
        if model and own is not None and calibration and evaluation:
            method = replace(own[0] if own else preset, width_multiple=shared.width_multiple)
            settings = validated(
                "with",
                lambda: FindSettings(
                    model=model,
                    method=method,
                    calibration=calibration,
                    evaluation=evaluation,
                    ratio=tolerance.ratio,
                    points=tolerance.points,
                    **shared.numbers,
                ),
            )
    evaluation_size_field(backend, shared.sizes, settings)
    return settings


def _shared_fields(backend: Backend, model: str | None, *, search: bool) -> _SharedFields:
    frame.section("How sure?")
    sizes = st.container()
    budget = _EVALUATION["n_passages"]
    evaluation: dict[str, Any] = {}
    with other_passages_expander(*([budget.key] if search else [])):
        passages = reference_field(backend, _EVALUATION["corpus"])
        if search:
            evaluation["n_passages"] = _budget_field()
    rows = [*_CALIBRATION.values(), *_EVALUATION.values(), *_NUMBERS]
    elsewhere = (_EVALUATION["corpus"], *([budget] if search else []))
    with expander("More settings", "more", [row.key for row in rows if row not in elsewhere]):
        group_heading("Calibration")
        text = reference_field(backend, _CALIBRATION["corpus"], _usual_calibration(model))
        calibration = setting_fields([_CALIBRATION[name] for name in ("n_samples", "length", "seed")], 3)
        calibration |= {name: setting_field(_CALIBRATION[name]) for name in ("token_weights", "packed")}
        group_heading("Evaluation")
        passage_rows = [_EVALUATION["shuffle_seed"]] if search else [budget, _EVALUATION["shuffle_seed"]]
        evaluation |= setting_fields(passage_rows, len(passage_rows))
        evaluation |= {
            name: setting_field(_EVALUATION[name]) for name in (("rule",) if search else ("stop_early", "rule"))
        }
        group_heading("Numbers")
        numbers = setting_fields(_NUMBERS, 3)
    show_uploads(backend, {row.key: row.default for row in (_EVALUATION["corpus"], _CALIBRATION["corpus"])})
    return _SharedFields(
        sizes=sizes,
        calibration=CalibrationSettings(corpus=text, **calibration) if text else None,
        evaluation=EvaluationSettings(corpus=passages, **evaluation) if passages else None,
        width_multiple=numbers.pop("width_multiple"),
        numbers=numbers,
    )


def _budget_field() -> int | None:
    about = (
        "The dense model answers all of them. A trial stops as soon as its verdict is beyond doubt; one that stays "
        "undecided counts as too much."
    )
    n: int | None = setting_field(replace(_EVALUATION["n_passages"], label="Passages to answer, at most", help=about))
    if n is not None and n < FEWEST_PASSAGES:
        show_hint(f"Fewer than {FEWEST_PASSAGES} passages can never confirm a model.")
    return n


def _sparsities_field() -> tuple[int, ...] | None:
    row = _RUN["sparsities_permille"]
    text = st.text_input(row.label, _FIRST_SPARSITIES, key=row.key, bind=BOUND, max_chars=300, help=row.help)
    return validated(row.key, lambda: RunSettings(sparsities_permille=parse_percents(text or "")).sparsities_permille)


def _show_sweep(settings: RunSettings | None) -> None:
    """Draw the number of sparse models of a race, and the sparsities that a pattern decides itself."""
    if settings is None:
        return
    n_methods, n_sparsities = len(settings.methods), len(settings.sparsities_permille)
    n = settings.n_sparse
    if n_methods > 1:
        show_hint(
            f"{n_methods} methods at {n_sparsities} {'sparsity' if n_sparsities == 1 else 'sparsities'}: "
            f"{n} sparse {wording.plural(n, 'model')} on one calibration, in one job."
        )
    for method in settings.methods:
        own = method.sparsities(settings.sparsities_permille)
        if own != settings.sparsities_permille:
            show_hint(f"{wording.method_title(method)}: {wording.sparsity_percents(own)}, which its pattern decides.")


def _show_model_facts(backend: Backend, model: str) -> None:
    """Draw the family and sizes of the model, as far as they are known before it is loaded."""
    named = backend.named_model(model)
    if named is None:
        show_hint("It is not on this machine yet: family, memory and time are known once it has been read.")
        if is_hub_id(model):
            st.button(
                "Look it up on the hub",
                key="look-up",
                type="tertiary",
                icon=":material/travel_explore:",
                help="Fetches its config.json, a few kilobytes, and none of its weights: what it will take is known "
                "then.",
                on_click=frame.attempt,
                args=(lambda: backend.fetch_config(model),),
            )
        return
    counted = named.shape
    if counted is None:
        show_hint(f"Family: {named.family}. Its sizes, and so memory and time, are known once it has been read.")
        return
    family = f"Family: {named.family}. " if named.family else ""
    widths = sorted(set(counted.widths))
    width = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
    show_hint(
        f"{family}{len(counted.widths)} blocks of {width} channels, "
        f"{wording.weights(counted.n_parameters)} weights, {wording.size(4 * counted.n_parameters)} in FP32."
    )
