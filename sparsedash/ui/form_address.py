"""Addresses of the prune page: the parameters that fill in its form with given settings. Many pages
link there.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sparsedash.catalog.presets import METHODS
from sparsedash.schema.fields import field_rows
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import RunSettings, percents_text
from sparsedash.ui.address_bar import Query
from sparsedash.ui.navigation import whole_tolerance_query

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SWEEP = "Prune to chosen sparsities"
SEARCH = "How much can go?"
GOALS = (SEARCH, SWEEP)
"""The two goals, as the form and the address name them."""

OWN = "own"
LAYERS = "layers"
EXPERTS = "experts"
MASKS = "masks"
QUANTISE = "quantise"
"""Keys of the fields of a custom method, of the presets that take whole layers or experts and of those that
set weights to zero, and of the quantised types.
"""

PRESETS = {
    "method": [method for method in METHODS if method.settings.removes_channels],
    LAYERS: [method for method in METHODS if method.settings.removes_layers],
    EXPERTS: [method for method in METHODS if method.settings.prunes_experts],
    MASKS: [method for method in METHODS if not method.settings.is_structured],
}
"""The presets that each of the four fields offers, by its key."""

FRESH = "fresh"
"""The parameter of a link that fills in the whole form: what was in it before is forgotten."""

CHOICES = ("saliency", "pattern", "compensation", "allocation")
"""Of a method; its other settings depend on them."""


def form_address(settings: RunSettings | FindSettings) -> Query | None:
    """The parameters of the address that fills in the form with these settings.

    None where the form has no room for them: it takes one custom method and one width multiple, and
    heals beside the models that are not healed.
    """
    search = isinstance(settings, FindSettings)
    run = settings.run((1,), (1,)) if isinstance(settings, FindSettings) else settings
    usual = MethodSettings()
    widths = {
        method.width_multiple for method in run.methods if method.uses("width_multiple")
    }
    steps = max(run.heal_steps)
    beside = (steps,) if search else (0, steps)
    methods = [
        replace(method, width_multiple=usual.width_multiple, budget=usual.budget)
        for method in run.methods
    ]
    named = {preset.settings: preset.name for preset in METHODS}
    custom = [method for method in methods if method not in named]
    if (
        len(custom) > 1
        or len(widths) > 1
        or run.heal_steps != tuple(dict.fromkeys(beside))
    ):
        return None
    width = widths.pop() if widths else usual.width_multiple
    query: Query = {
        FRESH: "1",
        **_setting_values(run),
        **_setting_values(run.calibration),
        **_setting_values(run.evaluation),
        "width": str(width),
        "budget": run.budget,
        "heal": f"{steps} steps" if steps else "",
        "tasks": list(run.evaluation.tasks) or "",
        QUANTISE: [kind.upper() for kind in run.quantise] or "",
    }
    for method in custom:
        query[OWN] = "true"
        for row in field_rows(MethodSettings).values():
            if method.uses(row.name) and row.name not in ("width_multiple", "budget"):
                query[row.key] = _text(getattr(method, row.name))
    if isinstance(settings, FindSettings):
        del query["sparsity"]
        query |= {"goal": SEARCH, **whole_tolerance_query(settings.tolerance)}
        return query if custom else query | {"with": named[methods[0]]}
    query["goal"] = SWEEP
    for key, presets in PRESETS.items():
        query[key] = [
            preset.name for preset in presets if preset.settings in methods
        ] or ""
    return query


def _setting_values(settings: "DataclassInstance") -> dict[str, str]:
    """The values of the settings with a row, by their keys; none of those that are off."""
    values = {
        row.key: getattr(settings, row.name)
        for row in field_rows(type(settings)).values()
    }
    return {
        key: _text(value)
        for key, value in values.items()
        if value is not None and value is not False
    }


def _text(value: Any) -> str:
    match value:
        case True:
            return "true"
        case float():
            return f"{value:.15g}"
        case (str(), *_) | ():
            return "\n".join(value)
        case tuple():
            return percents_text(value)
        case _:
            return str(value)
