"""Fields of a pruning method: presets by name, and a custom one of four choices."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import streamlit as st

from sparsedash.catalog.presets import DEFAULT_METHOD, METHODS, method_name, method_named
from sparsedash.reporting.html import paragraph
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.method_settings import (
    MAX_ROUNDS,
    Allocation,
    Compensation,
    MethodSettings,
    Pattern,
    Saliency,
    Schedule,
    Scope,
)
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.store_keys import is_used
from sparsedash.ui import frame
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.form_address import CHANNEL_PRESETS, CHOICES, KEYS, MASK_PRESETS, MASKS, OWN, PARAMETERS
from sparsedash.ui.form_fields import choice_field, show_hint, validated, whole_number_field

CHANNELS: Pattern = "channelx1"
"""The pattern that takes channels out of the network; every other one only sets weights to zero."""

_MASKS = "They set weights to zero where they are: such masks do not make the model smaller or faster by themselves."
_USUAL = MethodSettings()
_ABOUT = {
    "saliency": "What makes a channel or a weight worth keeping. activation-aware: its size times how active it is. "
    "magnitude: its size. wifv: how much it varies. obs: what is lost when the others make up for it as well as they "
    "can. fisher: how the loss answers to a mask on it; takes a backward pass over all the text. random: by chance.",
    "pattern": "channelx1: whole channels leave the MLPs. 1x1: single weights become zero, anywhere. 2:4 and 4:8: so "
    "many in every four or eight neighbours.",
    "compensation": "none: what stays is left as it is. bias: the mean of what went. least-squares: what stays is "
    "refitted to the dense outputs. sequential: and once more on the sparse model's own activations, layer by layer.",
    "allocation": "uniform: every layer the same share. global: one threshold for all scores. standardised: the "
    "same, with each layer's scores in standard deviations. sensitivity: more from layers that the model minds less.",
    "scope": "The projections whose weights can go: those of the MLPs, or all of the decoder blocks.",
    "damping": "Pulls the refit towards the original weights, as a share of the median of diag H, the activations' "
    "second moments. Larger is steadier and fits less closely.",
    "strength": "0: every layer aims at its own dense output. 1: at the dense model's residual stream, and so makes "
    "up for the layers before it as well.",
    "seed": "Another number draws other channels or weights.",
    "blend": "0: uniform widths. 1: those that cost the model least, as far as little text can tell.",
    "floor": "0.1: every layer gives at least 10 % of its channels, as far as the width multiple allows.",
    "ceiling": "0.6: no layer gives more than 60 % of its channels.",
    "rounds": "The text is read in so many parts, and after each what would go so far is masked. 1: the dense model "
    "reads all of it, once for all sparsities.",
    "schedule": "How much of the sparsity is reached after each round.",
    "plain_text": "0.5: half of the calibration tokens are plain stories that ship with the program, so that a close "
    "fit to unusual text keeps ordinary text.",
}
"""What is said of each choice and parameter beside its field."""


def describe_methods(chosen: tuple[MethodSettings, ...]) -> None:
    """Draw by what method it is done, or how many race: what is recommended, unless something else is chosen."""
    names = [method_name(each) for each in chosen]
    if len(names) > 1:
        frame.show(paragraph(f"{len(names)} methods race: {', '.join(names)}."))
    for name in names if len(names) == 1 else ():
        frame.show(paragraph(f"By {name}{', which is recommended' if name == DEFAULT_METHOD else ''}."))
        show_hint(*(method.summary for method in METHODS if method.name == name))


def channel_presets_field() -> tuple[MethodSettings, ...]:
    """Draw the presets that remove channels; several make one run on one calibration."""
    names = st.pills(
        "Method",
        [method.name for method in CHANNEL_PRESETS],
        selection_mode="multi",
        default=[DEFAULT_METHOD],
        key="method",
        bind=BOUND,
        help="Choose several to race them on the same calibration.",
        wrap=True,
    )
    return _named(names)


def search_preset_field() -> MethodSettings:
    """Draw the presets of which the largest sparsity can be looked for, one of which is taken."""
    names = tuple(method.name for method in METHODS if method.searchable)
    name = choice_field("with", "Method", names, usual=DEFAULT_METHOD)
    show_hint(*(f"{method.name}: {method.summary}" for method in METHODS if method.name == name))
    return method_named(name)


def mask_presets_field() -> tuple[MethodSettings, ...]:
    """Draw the presets that only set single weights to zero, with a note that this saves neither memory nor time."""
    names = st.pills(
        "Methods that take single weights",
        [method.name for method in MASK_PRESETS],
        selection_mode="multi",
        key=MASKS,
        bind=BOUND,
        wrap=True,
    )
    show_hint(_MASKS)
    return _named(names)


def _named(names: list[str]) -> tuple[MethodSettings, ...]:
    show_hint(*(f"{method.name}: {method.summary}" for method in METHODS if method.name in names))
    return tuple(method_named(name) for name in names)


def custom_method_fields(title: str = "Race a method of your own") -> tuple[MethodSettings, ...] | None:
    """Draw the visitor's own method, where it is wanted. None where its choices do not go together."""
    wanted = st.toggle(
        title,
        key=OWN,
        bind=BOUND,
        help="Which weights matter, what goes, how the rest makes up for it, and how much each layer gives.",
    )
    if not wanted:
        return ()
    left, right = st.columns(2)
    with left:
        saliency = _choice("saliency", "Saliency: what matters", Saliency)
        compensation = _choice("compensation", "Compensation: what makes up for it", Compensation)
    with right:
        pattern = _choice("pattern", "Pattern: what goes", Pattern)
        allocation = _choice("allocation", "Allocation: how much each layer gives", Allocation)
    chosen = dict(zip(CHOICES, (saliency, pattern, compensation, allocation), strict=True))
    parameters = _parameters(chosen)
    made = validated(OWN, lambda: MethodSettings(**chosen, **parameters))
    if made is None:
        return None
    show_hint(f"Its name in charts: {method_name(made)}", *([] if pattern == CHANNELS else [_MASKS]))
    return (made,)


def chosen_methods(
    presets: tuple[MethodSettings, ...], own: tuple[MethodSettings, ...] | None, width: int
) -> tuple[MethodSettings, ...] | None:
    """All methods with their widths in multiples of this, each once; None where some field is wrong or none is
    chosen.
    """
    if own is None:
        return None
    methods = dict.fromkeys(replace(method, width_multiple=width) for method in (*presets, *own))

    def made() -> tuple[MethodSettings, ...]:
        if not methods:
            raise SparseDashError("No method is chosen.", "Choose at least one.")
        return RunSettings(methods=tuple(methods)).methods

    return validated("method", made)


def _choice(name: str, label: str, choices: Any, *, disabled: bool = False) -> Any:
    usual = getattr(_USUAL, name)
    return choice_field(name, label, get_args(choices), _ABOUT[name], usual=usual, disabled=disabled)


def _parameters(chosen: dict[str, Any]) -> dict[str, Any]:
    """The parameters that these choices have, two beside each other."""
    used = [name for name in PARAMETERS if is_used(name, **chosen)]
    found: dict[str, Any] = {}
    for first in range(0, len(used), 2):
        for name, column in zip(used[first : first + 2], st.columns(2), strict=False):
            with column:
                found[name] = _FIELDS[name]()
    return found


def _schedule() -> Any:
    """Without a choice where there is one round, which has no schedule."""
    one_round = st.session_state.get("rounds", _USUAL.rounds) == 1
    return _choice("schedule", "Schedule: how it gets sparser", Schedule, disabled=one_round)


def _whole(name: str, title: str, high: int) -> int:
    usual = int(getattr(_USUAL, name))
    number = whole_number_field(KEYS.get(name, name), title, min(usual, 1), high, usual, about=_ABOUT[name])
    return usual if number is None else number


def _share(name: str, title: str, low: float, high: float) -> float:
    usual = float(getattr(_USUAL, name))
    number = st.number_input(
        title,
        min_value=low,
        max_value=high,
        value=usual,
        step=0.01,
        format="%.3g",
        key=name,
        bind=BOUND,
        help=_ABOUT[name],
    )
    return usual if number is None else float(number)


_FIELDS: dict[str, Callable[[], Any]] = {
    "damping": lambda: _share("damping", "Damping: towards the original weights", 0.001, 10.0),
    "strength": lambda: _share("strength", "Strength: towards the residual stream", 0.0, 1.0),
    "seed": lambda: _whole("seed", "Seed of the random choice", 2**31 - 1),
    "blend": lambda: _share("blend", "Blend: from uniform to cheapest widths", 0.0, 1.0),
    "floor": lambda: _share("floor", "Floor: least share that a layer gives", 0.0, 1.0),
    "ceiling": lambda: _share("ceiling", "Ceiling: largest share that a layer gives", 0.0, 1.0),
    "rounds": lambda: _whole("rounds", "Rounds: each on a part of the text", MAX_ROUNDS),
    "schedule": _schedule,
    "scope": lambda: _choice("scope", "Scope: where it goes", Scope),
    "plain_text": lambda: _share("plain_text", "Plain text: its share of the calibration", 0.0, 1.0),
}
"""How each of PARAMETERS is asked for."""
