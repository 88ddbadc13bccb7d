"""The form of the prune page: model, sparsities or a search for the largest one, passages, and more settings."""

from dataclasses import replace
from typing import get_args

import streamlit as st

from sparsedash.catalog.presets import method_named
from sparsedash.reporting import wording
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    BUILTIN_TEXT,
    SELF,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    FindSettings,
    Residency,
    Rule,
    RunSettings,
    TokenWeights,
    parse_percents,
)
from sparsedash.service.backend import Backend
from sparsedash.service.request_checks import is_hub_id
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance
from sparsedash.ui import form_fields, frame
from sparsedash.ui.address_bar import BOUND, points_field, query_value, ratio_field
from sparsedash.ui.form_address import GOALS, MASKS, OWN, SEARCH, SWEEP
from sparsedash.ui.form_estimate import N_PASSAGES_KEY, evaluation_size_field, other_passages_expander
from sparsedash.ui.form_fields import (
    CALIBRATION_FIELD,
    MODEL_FIELD,
    PASSAGES_FIELD,
    choice_field,
    group_heading,
    reference_field,
    show_hint,
    validated,
    whole_number_field,
)
from sparsedash.ui.form_method import (
    channel_presets_field,
    chosen_methods,
    custom_method_fields,
    describe_methods,
    mask_presets_field,
    search_preset_field,
)
from sparsedash.ui.navigation import parse_tolerance


def usual_calibration(model: str | None) -> str:
    """The calibration text that the form begins with: the built-in model's own is written already."""
    return BUILTIN_TEXT if model == BUILTIN_MODEL else SELF


def calibration_fields(corpus: str | None) -> CalibrationSettings | None:
    """Draw how much calibration text is read and how; None where the text itself cannot be used."""
    default = CalibrationSettings()
    left, middle, right = st.columns(3)
    with left:
        n_samples = whole_number_field("samples", "Samples", 1, 100_000, default.n_samples)
    with middle:
        length = whole_number_field("length", "Tokens in each", 8, 32_768, default.length)
    with right:
        seed = whole_number_field("seed", "Seed", 0, 2**31 - 1, default.seed)
    weights: tuple[TokenWeights, ...] = get_args(TokenWeights)
    token_weights = choice_field(
        "weights",
        "How much each token counts",
        weights,
        "equal: all the same. residual: by 1 / mean square of the residual stream, so that the tokens with enormous "
        "activations, such as the first of a passage, count little.",
    )
    packed = st.toggle(
        "Join the documents and cut them into full samples",
        key="packed",
        bind=BOUND,
        help="As the published program does. Otherwise every document is a sample of its own, which begins as the "
        "passages begin. A running text is always joined.",
    )
    if corpus is None:
        return None
    return CalibrationSettings(
        corpus=corpus,
        n_samples=n_samples or default.n_samples,
        length=length or default.length,
        seed=seed or default.seed,
        token_weights=token_weights,
        packed=packed,
    )


def shuffle_field() -> int | None:
    """Draw the field for the seed that draws the passages."""
    return whole_number_field("shuffle", "Shuffle the passages, with seed", 0, 2**31 - 1, None, "file order")


def rule_field() -> Rule:
    """Draw the field for how the last token is judged."""
    rules: tuple[Rule, ...] = get_args(Rule)
    return choice_field(
        "rule",
        "Rule for the last token",
        rules,
        "plain: right when it is the first choice. published: as in the published table, where a passage of more "
        "than 197 tokens counts as wrong.",
    )


def number_fields() -> tuple[Dtype, int, Residency]:
    """Draw the number format, the width multiple, and where the weights are."""
    left, middle, right = st.columns(3)
    dtypes: tuple[Dtype, ...] = get_args(Dtype)
    with left:
        dtype = choice_field(
            "dtype",
            "Number format",
            dtypes,
            "bfloat16: half the memory. The same passages always give the same verdicts, but evaluated among others, "
            "up to 2 in 100 passages change theirs.",
        )
    with middle:
        default = MethodSettings().width_multiple
        width = whole_number_field("width", "Kept widths are multiples of", 1, 4096, default)
    ways: tuple[Residency, ...] = get_args(Residency)
    with right:
        residency = choice_field(
            "residency",
            "Weights in memory",
            ways,
            "auto: all of them where they fit. resident: all of them. streamed: block by block from their files, "
            "which takes far less memory and gives the same results.",
        )
    return dtype, width or default, residency


_SEARCH_MORE = (
    CALIBRATION_FIELD.key,
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


def search_form(backend: Backend, model: str | None) -> FindSettings | None:
    """Draw what may be lost and how sure it shall be. Returns the search's settings, or None while a field is wrong;
    the error stands under that field.
    """
    tolerance = _tolerance()
    about_method = st.container()
    st.session_state.setdefault("another", any(map(query_value, ("with", OWN))))
    with st.expander("Choose another method", key="another", on_change="rerun"):
        preset = search_preset_field()
        own = custom_method_fields("Use a method of your own instead")
    frame.section("How sure?")
    sizes = st.container()
    with other_passages_expander(N_PASSAGES_KEY):
        passages = reference_field(backend, PASSAGES_FIELD)
        budget = _budget()
    st.session_state.setdefault("more", any(map(query_value, _SEARCH_MORE)))
    with st.expander("More settings", key="more", on_change="rerun"):
        group_heading("Calibration")
        calibration = calibration_fields(reference_field(backend, CALIBRATION_FIELD, usual=usual_calibration(model)))
        group_heading("Evaluation")
        shuffle = shuffle_field()
        rule = rule_field()
        group_heading("Numbers")
        dtype, width, residency = number_fields()
    form_fields.show_uploads(
        backend, {field.key: field.choices[0].name for field in (PASSAGES_FIELD, CALIBRATION_FIELD)}
    )
    with about_method:
        describe_methods(own or (preset,))
    if not (model and own is not None and calibration and passages):
        evaluation_size_field(backend, sizes, None)
        return None
    method: MethodSettings = replace(own[0] if own else preset, width_multiple=width)
    with about_method:
        settings = validated(
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
    evaluation_size_field(backend, sizes, settings)
    return settings


def _tolerance() -> Tolerance:
    tolerance = parse_tolerance(st.query_params)
    left, right = st.columns(2)
    with left:
        ratio_field("Word perplexity, at most times dense's", tolerance.ratio)
    with right:
        points_field("Accuracy, points lost at most", tolerance.points)
    return tolerance


def _budget() -> int | None:
    n = whole_number_field(
        N_PASSAGES_KEY,
        "Passages to answer, at most",
        1,
        10_000_000,
        None,
        "all",
        "The dense model answers all of them. A trial stops as soon as its verdict is beyond doubt; one that stays "
        "undecided counts as too much.",
    )
    if n is not None and n < FEWEST_PASSAGES:
        show_hint(f"With fewer than {FEWEST_PASSAGES} passages nothing is ever called within.")
    return n


def show_model_facts(backend: Backend, model: str) -> None:
    """Draw family and sizes as far as they are known without loading it, or that they are not."""
    named = backend.named_model(model)
    if named is None:
        show_hint("It is not on this machine yet: family, memory and time are known once it has been read.")
        if is_hub_id(model):
            _offer_config(backend, model)
        return
    counted = named.counted
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


def _offer_config(backend: Backend, model: str) -> None:
    """A button that asks the hub for the model's config: a few kilobytes, and only if somebody wants it."""
    st.button(
        "Look it up on the hub",
        key="look-up",
        type="tertiary",
        icon=":material/travel_explore:",
        help="Fetches its config.json, a few kilobytes, and none of its weights: what it will take is known then.",
        on_click=frame.attempt,
        args=(lambda: backend.fetch_config(model),),
    )


DEFAULT_SPARSITIES = "10, 20, 30"
_FIRST_METHOD, _FIRST_SPARSITIES, _FIRST_SAMPLES = "least-squares", (100, 200), 64

_MORE = (
    CALIBRATION_FIELD.key,
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


def first_run_settings() -> RunSettings:
    """What "Try the built-in model" asks for: the usual method on text that ships with the program, quickly.

    Half the usual text, two sparsities, and the quickest method that refits, which on such text loses little more than
    the recommended one: a first look. The page warns that more text makes the fit steadier.
    """
    text = CalibrationSettings(corpus=usual_calibration(BUILTIN_MODEL), n_samples=_FIRST_SAMPLES)
    return RunSettings(methods=(method_named(_FIRST_METHOD),), sparsities_permille=_FIRST_SPARSITIES, calibration=text)


def prune_form(backend: Backend) -> RunSettings | FindSettings | None:
    """Draw the three questions. Returns what they ask for; None while that is wrong."""
    frame.section("Which model?")
    model = reference_field(backend, MODEL_FIELD)
    if model is not None:
        show_model_facts(backend, model)
    frame.section("How much, or how much may be lost?")
    goal = st.segmented_control(
        "What to do", GOALS, default=SWEEP, key="goal", bind=BOUND, required=True, label_visibility="collapsed"
    )
    return search_form(backend, model) if goal == SEARCH else run_form(backend, model)


def run_form(backend: Backend, model: str | None) -> RunSettings | None:
    """Draw how much shall go and how sure it shall be. Returns the run's settings, or None while a field is wrong; the
    error stands under it.
    """
    sparsities = _sparsities()
    about_sweep = st.container()
    about_methods = st.container()
    st.session_state.setdefault("race", any(map(query_value, ("method", MASKS, OWN))))
    with st.expander("Race several methods, or choose another", key="race", on_change="rerun"):
        presets = channel_presets_field()
        masks = mask_presets_field()
        own = custom_method_fields()
    frame.section("How sure?")
    sizes = st.container()
    with other_passages_expander():
        passages = reference_field(backend, PASSAGES_FIELD)
    # Open where the address says something in it, and from then on as the visitor leaves it.
    st.session_state.setdefault("more", any(map(query_value, _MORE)))
    with st.expander("More settings", key="more", on_change="rerun"):
        group_heading("Calibration")
        calibration = calibration_fields(reference_field(backend, CALIBRATION_FIELD, usual=usual_calibration(model)))
        group_heading("Evaluation")
        evaluation = _evaluation(passages)
        group_heading("Numbers")
        dtype, width_multiple, residency = number_fields()
    form_fields.show_uploads(
        backend, {field.key: field.choices[0].name for field in (PASSAGES_FIELD, CALIBRATION_FIELD)}
    )
    with about_methods:
        methods = chosen_methods((*presets, *masks), own, width_multiple)
        describe_methods((*presets, *masks, *(own or ())))
    if not (model and methods and sparsities and calibration and evaluation):
        evaluation_size_field(backend, sizes, None)
        return None
    with about_sweep:
        settings = validated(
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
    evaluation_size_field(backend, sizes, settings)
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
    return validated(
        "sparsity", lambda: RunSettings(sparsities_permille=parse_percents(text or "")).sparsities_permille
    )


def _say_sweep(settings: RunSettings) -> None:
    """What the request makes, where that is more than one reads off the form."""
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


def _evaluation(corpus: str | None) -> EvaluationSettings | None:
    left, right = st.columns(2)
    with left:
        n_passages = whole_number_field("passages", "How many passages", 1, 10_000_000, None, "all")
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
