"""The form that makes RunSettings. Every field lives in the address of the page and is checked by itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import streamlit as st

from sparsedash.backend import Backend
from sparsedash.catalog import (
    CALIBRATION_CORPORA,
    DEFAULT_METHOD,
    EVALUATION_CORPORA,
    METHODS,
    MODELS,
    Choice,
    method_name,
    method_named,
)
from sparsedash.errors import SparseDashError
from sparsedash.settings import (
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    MethodSettings,
    Rule,
    RunSettings,
    parse_percents,
)
from sparsedash.ui import frame
from sparsedash.ui.text import Html, element, escape, paragraph

T = TypeVar("T")

BOUND: Literal["query-params"] = "query-params"
DEFAULT_SPARSITIES = "10, 20, 30"


def first_run() -> RunSettings:
    """What "Try the built-in model" asks for: every default, at the sparsities the form begins with."""
    return RunSettings(sparsities_permille=parse_percents(DEFAULT_SPARSITIES))


def run_settings(backend: Backend) -> RunSettings | None:
    """Draw the form. Returns what it says, or None while a field is wrong; the error stands under that field."""
    model = _reference(backend, _MODEL)
    methods = _methods()
    sparsities = _sparsities()
    passages = _reference(backend, _PASSAGES)
    with st.expander("More settings"):
        calibration = _calibration(_reference(backend, _CALIBRATION))
        evaluation = _evaluation(passages)
        dtype, width_multiple = _numerics()
    if not (model and methods and sparsities and calibration and evaluation):
        return None
    return RunSettings(
        model=model.model,
        dtype=dtype,
        methods=tuple(replace(method, width_multiple=width_multiple) for method in methods),
        sparsities_permille=sparsities,
        calibration=calibration,
        evaluation=evaluation,
    )


def address(settings: RunSettings) -> dict[str, str]:
    """The parameters of the address under which the form says just this request of one method."""
    (method,) = settings.methods
    return {
        "model": settings.model,
        "method": method_name(replace(method, width_multiple=MethodSettings().width_multiple)),
        "sparsity": ", ".join(f"{value / 10:g}" for value in settings.sparsities_permille),
        "text": settings.evaluation.corpus,
        "rule": settings.evaluation.rule,
        "calibration": settings.calibration.corpus,
        "samples": str(settings.calibration.n_samples),
        "length": str(settings.calibration.length),
        "seed": str(settings.calibration.seed),
        "dtype": settings.dtype,
        "width": str(method.width_multiple),
    }


@dataclass(frozen=True, kw_only=True)
class _Reference:
    """A field that takes a name from the catalog or any other reference.

    subject: how the backend's problems with such a reference begin. build: settings that differ from the defaults in it.
    """

    key: str
    label: str
    help: str
    choices: tuple[Choice, ...]
    subject: str
    build: Callable[[str], RunSettings]


_MODEL = _Reference(
    key="model",
    label="Model",
    help="A name from the list, any Hugging Face id (with @revision if you like), a local folder or a .gguf file.",
    choices=MODELS,
    subject="Model",
    build=lambda name: RunSettings(model=name),
)
_PASSAGES = _Reference(
    key="text",
    label="Passages to answer",
    help="A name from the list, or file:PATH of a .jsonl, .txt or .parquet file on the server.",
    choices=EVALUATION_CORPORA,
    subject="Evaluation text",
    build=lambda name: RunSettings(evaluation=EvaluationSettings(corpus=name)),
)
_CALIBRATION = _Reference(
    key="calibration",
    label="Calibration text",
    help="The text whose activations decide what can go. A name from the list, or file:PATH on the server.",
    choices=CALIBRATION_CORPORA,
    subject="Calibration text",
    build=lambda name: RunSettings(calibration=CalibrationSettings(corpus=name)),
)


def _reference(backend: Backend, field: _Reference) -> RunSettings | None:
    """Settings with the chosen reference, or None where it cannot be used; the catalog's line on it underneath."""
    name = st.selectbox(
        field.label, [choice.name for choice in field.choices], key=field.key, bind=BOUND, accept_new_options=True,
        help=field.help,
    )  # fmt: skip

    def build() -> RunSettings:
        settings = field.build((name or "").strip())
        for problem in backend.preflight(settings).problems:
            if problem.startswith(f"{field.subject}:"):
                raise SparseDashError(problem)
        return settings

    settings = _checked(field.key, build)
    for choice in field.choices:
        if choice.name == name:
            frame.show(paragraph(f"{choice.title}: {choice.summary}", css="sd-hint"))
    return settings


def _methods() -> tuple[MethodSettings, ...] | None:
    names = st.pills(
        "Method", [method.name for method in METHODS], selection_mode="multi", default=[DEFAULT_METHOD],
        key="method", bind=BOUND, help="Choose several to compare them on the same calibration.", wrap=True,
    )  # fmt: skip
    lines = [f"{method.name}: {method.summary}" for method in METHODS if method.name in names]
    frame.show(*(paragraph(line, css="sd-hint") for line in lines))
    return _checked(
        "method", lambda: RunSettings(methods=tuple(method_named(name) for name in names)).methods
    )


def _sparsities() -> tuple[int, ...] | None:
    text = st.text_input(
        "Share of MLP channels to remove, percent", DEFAULT_SPARSITIES, key="sparsity", bind=BOUND, max_chars=300,
        help="One or several, 0 to 90, in tenths at the finest. One calibration serves them all.",
    )  # fmt: skip
    return _checked(
        "sparsity",
        lambda: RunSettings(sparsities_permille=parse_percents(text or "")).sparsities_permille,
    )


def _calibration(chosen: RunSettings | None) -> CalibrationSettings | None:
    default = CalibrationSettings()
    left, middle, right = st.columns(3)
    with left:
        n_samples = _whole("samples", "Samples", 1, 100_000, default.n_samples)
    with middle:
        length = _whole("length", "Tokens in each", 8, 32_768, default.length)
    with right:
        seed = _whole("seed", "Seed", 0, 2**31 - 1, default.seed)
    if chosen is None:
        return None
    return replace(
        chosen.calibration,
        n_samples=n_samples or default.n_samples,
        length=length or default.length,
        seed=seed or default.seed,
    )


def _evaluation(chosen: RunSettings | None) -> EvaluationSettings | None:
    left, right = st.columns(2)
    with left:
        n_passages = _whole("passages", "How many passages", 1, 10_000_000, None, "all")
    with right:
        shuffle = _whole("shuffle", "Shuffle them with seed", 0, 2**31 - 1, None, "file order")
    rules: tuple[Rule, ...] = get_args(Rule)
    rule = st.selectbox(
        "Rule for the last token", rules, key="rule", bind=BOUND,
        help="plain: right when it is the first choice. published: as in the published table, where a passage of more "
        "than 196 tokens counts as wrong.",
    )  # fmt: skip
    if chosen is None:
        return None
    return replace(
        chosen.evaluation, n_passages=n_passages, shuffle_seed=shuffle, rule=rule or rules[0]
    )


def _numerics() -> tuple[Dtype, int]:
    left, right = st.columns(2)
    dtypes: tuple[Dtype, ...] = get_args(Dtype)
    with left:
        dtype = st.selectbox("Number format", dtypes, key="dtype", bind=BOUND)
    with right:
        default = MethodSettings().width_multiple
        width = _whole("width", "Kept widths are multiples of", 1, 4096, default)
    return dtype or dtypes[0], width or default


def _whole(
    key: str, label: str, low: int, high: int, value: int | None, empty: str = ""
) -> int | None:
    number = st.number_input(
        label, min_value=low, max_value=high, value=value, step=1, key=key, bind=BOUND, placeholder=empty or None
    )  # fmt: skip
    return None if number is None else int(number)


def _checked(key: str, build: Callable[[], T]) -> T | None:
    """What was built, or None with the refusal drawn under the field and its border marked."""
    try:
        return build()
    except SparseDashError as error:
        fields = ("[data-testid=stTextInputRootElement]", "[data-testid=stSelectbox] [role=group]")
        marked = ", ".join(f".st-key-{key} {field}" for field in fields)
        frame.show(Html(f"<style>{marked} {{ border-color: var(--broke) !important }}</style>"))
        message = f"{error.message} {error.advice}".strip()
        frame.show(element("p", escape(message), css="sd-field-error", role="alert"))
        return None
