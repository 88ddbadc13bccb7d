"""Fields of a pruning method: presets by name, and a custom method of the four choices."""

from dataclasses import replace

import streamlit as st

from sparsedash.catalog.presets import DEFAULT_METHOD, METHODS, method_name, method_named
from sparsedash.reporting.html import paragraph
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.fields import FieldRow, field_rows
from sparsedash.schema.method_settings import MethodSettings, uses_parameter
from sparsedash.schema.settings import RunSettings
from sparsedash.ui import frame
from sparsedash.ui.address_bar import BOUND
from sparsedash.ui.form_address import CHANNEL_PRESETS, CHOICES, MASK_PRESETS, MASKS, OWN
from sparsedash.ui.form_fields import setting_field, setting_fields, show_hint, validated

_ROWS = field_rows(MethodSettings)
_MASKS = "They set weights to zero where they are: such masks do not make the model smaller or faster by themselves."


def describe_methods(chosen: tuple[MethodSettings, ...]) -> None:
    """Draw the name and summary of the chosen method, or the names of several."""
    names = [method_name(each) for each in chosen]
    if len(names) > 1:
        frame.show(paragraph(f"{len(names)} methods race: {', '.join(names)}."))
    for name in names if len(names) == 1 else ():
        frame.show(paragraph(f"Method: {name}{' (recommended)' if name == DEFAULT_METHOD else ''}."))
        show_hint(*(method.summary for method in METHODS if method.name == name))


def preset_fields() -> tuple[MethodSettings, ...]:
    """Draw the presets, those that remove channels and those that set weights to zero. Several race in one run."""
    channels = st.pills(
        "Method",
        [method.name for method in CHANNEL_PRESETS],
        selection_mode="multi",
        default=[DEFAULT_METHOD],
        key="method",
        bind=BOUND,
        help="Choose several to race them on the same calibration.",
        wrap=True,
    )
    _show_summaries(channels)
    masks = st.pills(
        "Methods that take single weights",
        [method.name for method in MASK_PRESETS],
        selection_mode="multi",
        key=MASKS,
        bind=BOUND,
        wrap=True,
    )
    show_hint(_MASKS)
    _show_summaries(masks)
    return tuple(map(method_named, (*channels, *masks)))


def search_preset_field() -> MethodSettings:
    """Draw the presets by which a search can find the largest sparsity, to choose one."""
    names = [method.name for method in METHODS if method.searchable]
    usual = names.index(DEFAULT_METHOD)
    name = st.selectbox("Method", names, index=usual, key="with", bind=BOUND, filter_mode=None) or DEFAULT_METHOD
    _show_summaries([name])
    return method_named(name)


def _show_summaries(names: list[str]) -> None:
    show_hint(*(f"{method.name}: {method.summary}" for method in METHODS if method.name in names))


def custom_method_fields(title: str = "Race a method of your own") -> tuple[MethodSettings, ...] | None:
    """Draw the custom method, where it is wanted. Returns None where its choices do not go together."""
    wanted = st.toggle(
        title,
        key=OWN,
        bind=BOUND,
        help="Which weights matter, what goes, how the rest makes up for it, and how much each layer gives.",
    )
    if not wanted:
        return ()

    def draw(row: FieldRow) -> object:
        one_round = st.session_state.get("rounds", MethodSettings.rounds) == 1
        return setting_field(row, disabled=row.name == "schedule" and one_round)

    chosen = setting_fields([_ROWS[name] for name in CHOICES], 2)
    others = [row for row in _ROWS.values() if row.name not in (*CHOICES, "width_multiple")]
    parameters = setting_fields([row for row in others if uses_parameter(row.name, **chosen)], 2, draw)
    made = validated(OWN, lambda: MethodSettings(**chosen, **parameters))
    if made is None:
        return None
    show_hint(f"Its name in charts: {method_name(made)}", *([] if made.takes_channels else [_MASKS]))
    return (made,)


def chosen_methods(
    presets: tuple[MethodSettings, ...], own: tuple[MethodSettings, ...] | None, width: int
) -> tuple[MethodSettings, ...] | None:
    """The presets and the custom method, each once and with this width multiple; None where a field is wrong."""
    if own is None:
        return None
    methods = dict.fromkeys(replace(method, width_multiple=width) for method in (*presets, *own))

    def made() -> tuple[MethodSettings, ...]:
        if not methods:
            raise SparseDashError("No method is chosen.", "Choose at least one.")
        return RunSettings(methods=tuple(methods)).methods

    return validated("method", made)
