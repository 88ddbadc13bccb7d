"""Named methods: presets of the four choices, which are what a form and the shell offer. One row
adds a name.
"""

from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings
from sparsedash.schema.sparse_spec import SparseSpec


@dataclass(frozen=True)
class Method:
    """A named method: a preset of the four choices."""

    name: str
    summary: str
    settings: MethodSettings

    @property
    def searchable(self) -> bool:
        """Whether the largest sparsity can be searched for; not so where the pattern decides it."""
        return self.settings.pattern not in FIXED_PERMILLE


_USUAL = MethodSettings()
_BARE = MethodSettings(compensation="none")
_BY_CURVES = MethodSettings(saliency="obs", allocation="curves", damping=0.1, mix=0.5)
_SPARSEGPT = MethodSettings(
    saliency="obs", pattern="1x1", compensation="sequential", scope="decoder"
)
_WANDA = MethodSettings(compensation="none", pattern="1x1", scope="decoder")
_BY_SIZE = replace(_WANDA, saliency="magnitude")
_LAYERS = MethodSettings(pattern="layer", saliency="perplexity", compensation="none")
_EXPERTS = MethodSettings(pattern="expert", saliency="output-energy")

METHODS = (
    Method(
        "best",
        "removes the channels that the rest can best replace, as many from each layer as costs least, then "
        "refits layer after layer; half of the calibration text is the built-in mix, to keep other abilities",
        replace(_BY_CURVES, compensation="sequential"),
    ),
    Method(
        "obs-by-curves",
        "best without its last refit: quicker, and nearly as near to dense",
        _BY_CURVES,
    ),
    Method(
        "quick",
        "obs-by-curves with three points a curve: a first look",
        replace(_BY_CURVES, curve_levels=3),
    ),
    Method(
        "least-squares",
        "channels by weight times activation, then refitted; the quickest that refits",
        _USUAL,
    ),
    Method(
        "least-squares-by-curves",
        "least-squares, with the widths that lose least in all: the model's loss is measured layer by layer",
        replace(_USUAL, allocation="curves"),
    ),
    Method(
        "retrain-free (published)",
        "channels by the Fisher information of their mask, rearranged, in six rounds, nothing refitted; for every "
        "sparsity a backward pass over all text",
        replace(_BARE, saliency="fisher", allocation="global", rounds=6),
    ),
    Method(
        "obs",
        "channels one by one, each time the one that the rest can best replace; then refitted",
        replace(_USUAL, saliency="obs"),
    ),
    Method(
        "flap",
        "channels that vary least, across blocks; their mean goes into a bias",
        replace(
            _USUAL, saliency="wifv", compensation="bias", allocation="standardised"
        ),
    ),
    Method(
        "wanda-channels", "channels by weight times activation, nothing refitted", _BARE
    ),
    Method(
        "magnitude",
        "channels by weight, nothing refitted",
        replace(_BARE, saliency="magnitude"),
    ),
    Method(
        "random",
        "channels at random, nothing refitted: the baseline",
        replace(_BARE, saliency="random"),
    ),
    Method(
        "layers",
        "whole layers that turn the residual stream least; what stays is refitted to take over, layer after layer; "
        "half of the calibration text is the built-in mix",
        replace(
            _LAYERS,
            saliency="block-influence",
            compensation="sequential",
            damping=0.1,
            mix=0.5,
        ),
    ),
    Method(
        "sleb",
        "whole layers, each time the one whose removal raises perplexity least, nothing refitted",
        _LAYERS,
    ),
    Method(
        "shortgpt",
        "whole layers that turn the residual stream least, nothing refitted",
        replace(_LAYERS, saliency="block-influence"),
    ),
    Method(
        "random-layers",
        "whole layers at random: the baseline",
        replace(_LAYERS, saliency="random"),
    ),
    Method(
        "experts",
        "whole experts of a mixture that add least to its output; the others are refitted to it",
        _EXPERTS,
    ),
    Method(
        "expert-channels",
        "the same share of the channels of every expert, each time the one that the rest can best replace; the others "
        "are refitted",
        replace(_EXPERTS, pattern="expert-channel", saliency="obs"),
    ),
    Method(
        "reap",
        "whole experts that add least where they are chosen, nothing refitted (published by Cerebras)",
        replace(_EXPERTS, saliency="reap", compensation="none"),
    ),
    Method(
        "expert-frequency",
        "whole experts that are chosen least often, nothing refitted",
        replace(_EXPERTS, saliency="frequency", compensation="none"),
    ),
    Method(
        "random-experts",
        "whole experts at random: the baseline",
        replace(_EXPERTS, saliency="random", compensation="none"),
    ),
    Method(
        "sparsegpt",
        "single weights of all projections that the rest can best replace, layer after layer on what is already sparse",
        _SPARSEGPT,
    ),
    Method(
        "wanda",
        "single weights of all projections by weight times input, nothing refitted",
        _WANDA,
    ),
    Method(
        "magnitude-weights",
        "single weights of all projections by size, nothing refitted",
        _BY_SIZE,
    ),
    Method(
        "sparsegpt-2:4",
        "as sparsegpt, two of every four neighbours: always 50 %",
        replace(_SPARSEGPT, pattern="2:4"),
    ),
    Method(
        "wanda-2:4",
        "as wanda, two of every four neighbours: always 50 %",
        replace(_WANDA, pattern="2:4"),
    ),
    Method(
        "magnitude-2:4",
        "as magnitude-weights, two of every four: always 50 %",
        replace(_BY_SIZE, pattern="2:4"),
    ),
)

DEFAULT_METHOD = "best"
"""The default of the form and the shell, which they recommend: see docs/adr/0050."""


def method_named(name: str) -> MethodSettings:
    """The four choices behind a name. Raises SettingsError with the names there are."""
    for method in METHODS:
        if method.name == name:
            return method.settings
    raise SettingsError("method", name, f"one of {', '.join(m.name for m in METHODS)}")


def method_name(method: MethodSettings) -> str:
    """The name of these choices, or the choices themselves; then each unusual parameter."""
    return spec_name(SparseSpec(method, 1))


@lru_cache(maxsize=1024)
def spec_name(spec: SparseSpec) -> str:
    """The name of the method of a model, with the steps of healing: "best (healed 48 steps)"."""
    # A run has one budget, which is said where its sparsities are.
    choices = asdict(replace(spec.pruning, budget="channels"))
    chosen = {name: value for name, value in choices.items() if isinstance(value, str)}
    alike = [
        method
        for method in METHODS
        if chosen.items() <= asdict(method.settings).items()
    ]
    if spec.is_healed:
        # It was trained again.
        alike = [
            method for method in alike if not method.name.startswith("retrain-free")
        ]

    def changes(usual: MethodSettings) -> list[str]:
        return [
            field
            for field, value in choices.items()
            if field not in chosen and value != getattr(usual, field)
        ]

    nearest = min(alike, key=lambda method: len(changes(method.settings)), default=None)
    # The choices that nearly every method shares only where they are others.
    usual = asdict(MethodSettings())
    always = ("saliency", "compensation", "allocation")
    others = [
        field
        for field in chosen
        if field not in always and chosen[field] != usual[field]
    ]
    name = (
        nearest.name
        if nearest
        else " + ".join(chosen[field] for field in (*always, *others))
    )
    words = [
        _PARAMETERS.get(field, f"{field} {{:g}}").format(choices[field])
        for field in changes(nearest.settings if nearest else MethodSettings())
    ]
    if spec.is_healed:
        plural = "" if spec.heal_steps == 1 else "s"
        words.append(f"healed {spec.heal_steps:,} step{plural}")
    return f"{name} ({', '.join(words)})" if words else name


_PARAMETERS = {
    "width_multiple": "multiples of {:g}",
    "mix": "mix {:g}",
    "curve_levels": "{:g} points a curve",
}
"""Words for parameters whose own names are unclear."""
