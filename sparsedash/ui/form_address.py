"""The address under which the form of the prune page is filled in with given settings.

The fields' names in the address stand here and in `ui/form/`, which draws them; links to the form come from many pages.
"""

from collections.abc import Sequence
from dataclasses import replace

from sparsedash.catalog.presets import METHODS
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import FindSettings, RunSettings
from sparsedash.schema.store_keys import is_used
from sparsedash.ui.address_bar import Query

CHANNEL_PRESETS = [method for method in METHODS if method.settings.takes_channels]
MASK_PRESETS = [method for method in METHODS if not method.settings.takes_channels]
GOALS = SWEEP, SEARCH = "Prune to chosen sparsities", "How much can go?"
"""The two ways to start, as the form names them and the address says them."""

OWN, MASKS = "own", "masks"
"""The fields of a method of one's own and of the presets that set weights to zero."""

CHOICES = ("saliency", "pattern", "compensation", "allocation")
PARAMETERS = ("damping", "strength", "seed", "blend", "floor", "ceiling", "rounds", "schedule", "scope", "plain_text")
"""Of a method, in the order they are asked for; the width multiple is asked once for all methods."""
KEYS = {"seed": "lot"}
"""What a parameter is called in the address where its own name is another field's."""


def form_address(settings: RunSettings | FindSettings) -> Query | None:
    """The parameters of the address that fills the form in with these settings; None where it has no room for them."""
    if isinstance(settings, FindSettings):
        return _search_address(settings)
    methods = _methods(settings.methods)
    widths = {method.width_multiple for method in settings.methods}
    if methods is None or len(widths) > 1:
        return None
    sparsities = ", ".join(f"{value / 10:g}" for value in settings.sparsities_permille)
    early = {"stop": "true"} if settings.evaluation.stop_early else {}
    return {**methods, "sparsity": sparsities, "width": str(widths.pop()), **_rest(settings), **early}


def _search_address(settings: FindSettings) -> Query:
    """As `form_address`, of a search."""
    usual = replace(settings.method, width_multiple=MethodSettings().width_multiple)
    name = next((preset.name for preset in METHODS if preset.settings == usual), "")
    method: Query = {"with": name} if name else dict(_own(usual))
    return {
        "goal": SEARCH,
        **method,
        "within": f"{settings.ratio:g}",
        "points": f"{settings.points:g}",
        "width": str(settings.method.width_multiple),
        **_rest(settings),
    }


def _rest(settings: RunSettings | FindSettings) -> Query:
    """What both ways to start ask for alike."""
    calibration, evaluation = settings.calibration, settings.evaluation
    found: Query = {
        "model": settings.model,
        "text": evaluation.corpus,
        "rule": evaluation.rule,
        "calibration": calibration.corpus,
        "samples": str(calibration.n_samples),
        "length": str(calibration.length),
        "seed": str(calibration.seed),
        "weights": calibration.token_weights,
        "dtype": settings.dtype,
    }
    found |= {"passages": str(evaluation.n_passages)} if evaluation.n_passages else {}
    found |= {"shuffle": str(seed)} if (seed := evaluation.shuffle_seed) is not None else {}
    found |= {"residency": settings.residency} if settings.residency != "auto" else {}
    return found | ({"packed": "true"} if calibration.packed else {})


def _methods(methods: Sequence[MethodSettings]) -> Query | None:
    """The parameters under which the form chooses just these methods, but for their width multiple.

    None where the form has no room for them: it makes one method of one's own.
    """
    usual = [replace(method, width_multiple=MethodSettings().width_multiple) for method in methods]
    own = [method for method in usual if method not in [preset.settings for preset in METHODS]]
    if len(own) > 1:
        return None
    found: Query = {"method": ""}
    for field, presets in (("method", CHANNEL_PRESETS), (MASKS, MASK_PRESETS)):
        if names := [preset.name for preset in presets if preset.settings in usual]:
            found[field] = names
    return found | (_own(own[0]) if own else {})


def _own(method: MethodSettings) -> dict[str, str]:
    choices = {name: getattr(method, name) for name in CHOICES}
    values = choices | {KEYS.get(name, name): getattr(method, name) for name in PARAMETERS if is_used(name, **choices)}
    return {OWN: "true"} | {name: str(value) for name, value in values.items()}
