"""Recommendations for a model: a method, and as much calibration text as it needs."""

from collections.abc import Iterable, Sequence

from sparsedash.catalog.budgets import most_permille
from sparsedash.catalog.model_sizes import expert_parameters
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.catalog.resources import MIN_REFIT_TOKENS_PER_CHANNEL
from sparsedash.catalog.run_rules import removal_error
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.settings import CalibrationSettings


def usual_method(shape: ModelShape | None) -> str:
    """The name of the recommended method: the default one, of a mixture whose experts hold more
    weights than its MLPs `experts`, as far as the model allows. shape: None if not known.
    """
    if shape is None:
        return DEFAULT_METHOD
    names = [DEFAULT_METHOD, "experts", "layers"]
    experts = [
        expert_parameters(shape, shape.whole, index)
        for index in shape.structure.mixtures
    ]
    if sum(experts) > shape.n_mlp:
        names = ["experts", DEFAULT_METHOD, "layers"]
    fitting = DEFAULT_METHOD
    for name in names:
        name = method_meant(name, shape)
        method = method_named(name)
        if removal_error(method, shape) is not None:
            continue
        if most_permille(shape, method):
            return name
        # It can remove nothing, as of a single layer; a run of it says so.
        fitting = name
    return fitting


def method_meant(name: str, shape: ModelShape | None) -> str:
    """The method that a name means for a model: the default one removes channels, those of experts
    where a model has no others. shape: None if not known.
    """
    if name != DEFAULT_METHOD or shape is None or any(shape.widths):
        return name
    of_experts = "expert-channels"
    error = removal_error(method_named(of_experts), shape)
    return name if error else of_experts


def methods_meant(names: Iterable[str], shape: ModelShape | None) -> list[str]:
    """The methods that these names mean for a model, each once: two may mean the same."""
    return list(dict.fromkeys(method_meant(name, shape) for name in names))


def refit_tokens(methods: Sequence[MethodSettings], shape: ModelShape | None) -> int:
    """Calibration tokens with which each expert sees enough to be refitted, were all chosen equally
    often; 0 where none is refitted, or the model is not known.
    """
    if shape is None or not any(
        method.prunes_experts and method.refits for method in methods
    ):
        return 0
    needed = [0]
    for layout in shape.structure.mixtures.values():
        n_tokens = MIN_REFIT_TOKENS_PER_CHANNEL * layout.width * layout.n
        needed.append(-(-n_tokens // layout.n_chosen))
    return max(needed)


def usual_samples(
    methods: Sequence[MethodSettings], shape: ModelShape | None, length: int
) -> int:
    """Samples of this many tokens to calibrate on: the default, or as many as a refit needs."""
    n_samples = -(-refit_tokens(methods, shape) // max(1, length))
    return max(CalibrationSettings().n_samples, n_samples)
