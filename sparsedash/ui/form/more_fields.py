"""The fields under "More settings" that both ways to start have."""

from typing import get_args

import streamlit as st

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    BUILTIN_TEXT,
    SELF,
    CalibrationSettings,
    Dtype,
    Residency,
    Rule,
    TokenWeights,
)
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.form.fields import one_of, whole


def usual_calibration(model: str | None) -> str:
    """The calibration text that the form begins with: the built-in model's own is written already."""
    return BUILTIN_TEXT if model == BUILTIN_MODEL else SELF


def calibration_fields(corpus: str | None) -> CalibrationSettings | None:
    """Draw how much calibration text is read and how; None where the text itself cannot be used."""
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
    return whole("shuffle", "Shuffle the passages, with seed", 0, 2**31 - 1, None, "file order")


def rule_field() -> Rule:
    """Draw the field for how the last token is judged."""
    rules: tuple[Rule, ...] = get_args(Rule)
    return one_of(
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
        dtype = one_of(
            "dtype",
            "Number format",
            dtypes,
            "bfloat16: half the memory. The same passages always give the same verdicts, but evaluated among others, "
            "up to 2 in 100 passages change theirs.",
        )
    with middle:
        default = MethodSettings().width_multiple
        width = whole("width", "Kept widths are multiples of", 1, 4096, default)
    ways: tuple[Residency, ...] = get_args(Residency)
    with right:
        residency = one_of(
            "residency",
            "Weights in memory",
            ways,
            "auto: all of them where they fit. resident: all of them. streamed: block by block from their files, "
            "which takes far less memory and gives the same results.",
        )
    return dtype, width or default, residency
