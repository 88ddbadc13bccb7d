"""The form that makes RunSettings."""

from typing import get_args

import streamlit as st

from sparsedash.reporting import wording
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    BUILTIN_TEXT,
    SELF,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    Rule,
    RunSettings,
    TokenWeights,
    parse_percents,
)
from sparsedash.service.backend import Backend
from sparsedash.ui.address_bar import BOUND, asked
from sparsedash.ui.form import uploads
from sparsedash.ui.form.fields import CALIBRATION, MODEL, PASSAGES, checked, group, hint, one_of, reference, whole
from sparsedash.ui.form.method_fields import all_of, choose_masks, choose_own, choose_presets
from sparsedash.ui.form_address import MASKS, OWN

DEFAULT_SPARSITIES = "10, 20, 30"
_FIRST_SPARSITIES, _FIRST_SAMPLES = (100, 200), 64

_MORE = (
    MASKS,
    OWN,
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
    "width",
)
"""The fields under "More settings", by their names in the address."""


def first_run() -> RunSettings:
    """What "Try the built-in model" asks for: the usual method on text that ships with the program, quickly.

    Half the usual text and two sparsities: a first look. The page warns that more text makes the fit steadier.
    """
    text = CalibrationSettings(corpus=usual_calibration(BUILTIN_MODEL), n_samples=_FIRST_SAMPLES)
    return RunSettings(sparsities_permille=_FIRST_SPARSITIES, calibration=text)


def usual_calibration(model: str | None) -> str:
    """The calibration text that the form begins with: the built-in model's own is written already."""
    return BUILTIN_TEXT if model == BUILTIN_MODEL else SELF


def run_settings(backend: Backend) -> RunSettings | None:
    """Draw the form. Returns its settings, or None while a field is wrong; the error stands under that field."""
    model = reference(backend, MODEL)
    presets = choose_presets()
    about_methods = st.container()
    sparsities = _sparsities()
    about_sweep = st.container()
    passages = reference(backend, PASSAGES)
    # Open where the address says something in it, and from then on as the visitor leaves it.
    st.session_state.setdefault("more", any(map(asked, _MORE)))
    with st.expander("More settings", key="more", on_change="rerun"):
        group("More methods")
        masks = choose_masks()
        own = choose_own()
        group("Calibration")
        calibration = _calibration(reference(backend, CALIBRATION, usual=usual_calibration(model)))
        group("Evaluation")
        evaluation = _evaluation(passages)
        group("Numbers")
        dtype, width_multiple = _numerics()
    uploads.show_kept(backend, {field.key: field.choices[0].name for field in (PASSAGES, CALIBRATION)})
    with about_methods:
        methods = all_of((*presets, *masks), own, width_multiple)
    if not (model and methods and sparsities and calibration and evaluation):
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
            ),
        )
        if settings is not None:
            _say_sweep(settings)
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


def _calibration(corpus: str | None) -> CalibrationSettings | None:
    default = CalibrationSettings()
    left, middle, right = st.columns(3)
    with left:
        n_samples = whole("samples", "Samples", 1, 100_000, default.n_samples)
    with middle:
        length = whole("length", "Tokens in each", 8, 32_768, default.length)
    with right:
        seed = whole("seed", "Seed", 0, 2**31 - 1, default.seed)
    weights: tuple[TokenWeights, ...] = get_args(TokenWeights)
    token_weights = one_of(
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
        help="As the published program does. Else every document is a sample of its own, which begins as the "
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


def _evaluation(corpus: str | None) -> EvaluationSettings | None:
    left, right = st.columns(2)
    with left:
        n_passages = whole("passages", "How many passages", 1, 10_000_000, None, "all")
    with right:
        shuffle = whole("shuffle", "Shuffle them with seed", 0, 2**31 - 1, None, "file order")
    stop_early = st.toggle(
        "Stop evaluating a sparse model once its difference from dense is decided",
        key="stop",
        bind=BOUND,
        help="Saves time where the answer is clear. Such a model answers fewer passages, and its mark is hollow.",
    )
    rules: tuple[Rule, ...] = get_args(Rule)
    rule = one_of(
        "rule",
        "Rule for the last token",
        rules,
        "plain: right when it is the first choice. published: as in the published table, where a passage of more "
        "than 197 tokens counts as wrong.",
    )
    if corpus is None:
        return None
    return EvaluationSettings(
        corpus=corpus, n_passages=n_passages, shuffle_seed=shuffle, rule=rule, stop_early=bool(stop_early)
    )


def _numerics() -> tuple[Dtype, int]:
    left, right = st.columns(2)
    dtypes: tuple[Dtype, ...] = get_args(Dtype)
    with left:
        dtype = one_of("dtype", "Number format", dtypes)
    with right:
        default = MethodSettings().width_multiple
        width = whole("width", "Kept widths are multiples of", 1, 4096, default)
    return dtype, width or default
