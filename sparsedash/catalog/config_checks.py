"""Limits on a config.json, and changes to it where layers are removed."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

MAX_LAYERS = 2_000
DEPTH_KEYS = (
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "decoder_layers",
)
"""Under which a config says how many decoder blocks there are."""
_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), (1, MAX_LAYERS)),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), (1, 10_000)),
    **dict.fromkeys(("hidden_size", "n_embd"), (1, 1_000_000)),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), (1, 10_000_000)),
    "vocab_size": (1, 100_000_000),
    # transformers makes a dictionary of as many names, and a list of as many layers.
    "num_labels": (0, 10_000),
    "attention_types": (0, MAX_LAYERS),
}
"""Least and most of a size, by its names in configs; what is not said has the type's usual value."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Keys that say of how many experts a router chooses some."""
_CHOSEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)
"""Keys that say how many it chooses for a token."""
_DEEPEST = 4
"""Configs inside one another that are looked into; published ones have two."""
_FIRST_LAYERS = ("first_k_dense_replace", "moe_layer_start_index")
"""Keys that say how many layers there are before the first mixture."""
_NOT_OF_LAYERS = ("architectures", "attention_types")
"""Lists that may be as long as a model is deep, and say nothing of its layers."""
_CAUSAL_VALUES = {"is_causal": True, "use_bidirectional_attention": False}
"""What a config says of a model that does not see what it is to predict, where it says so."""


def config_problem(config: Mapping[str, Any], name: object) -> str:
    """The reason a model with this config.json cannot be pruned; empty if there is none.
    name: of the model.
    """
    says = f"the config of {name} says"
    family = config.get("model_type", "")
    if family == "":
        return f"the config of {name} has no model_type. Fetch or save the model again."
    if not isinstance(family, str):
        return f"{says} model_type = {str(family)[:40]}; possible: a name."
    for path, part in _parts(config):
        if part.get("quantization_config") is not None:
            return (
                f"the weights in {name} are quantised, and a sparse model is computed from full "
                "ones. Name the model that it was made from, or a GGUF file of it."
            )
        if problem := _size_problem(part) or _experts_problem(part):
            return f"{says} {path}{problem}."
    change = "Change it: no weight depends on it."
    if config.get("slow_but_exact") is True and config.get("pretraining_tp", 1) != 1:
        return f"{says} slow_but_exact = True; possible: False. {change}"
    if config.get("return_dict") is False:
        return f"{says} return_dict = False; possible: True. {change}"
    for key, causal in _CAUSAL_VALUES.items():
        value = config.get(key)
        if value is not None and bool(value) != causal:
            return f"{says} {key} = {str(value)[:40]}: a model that sees what it is to predict."
    return ""


def _parts(
    config: Mapping[str, Any], path: str = "", depth: int = 1
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The config and those inside it, as of a language model beside a vision tower, with the path
    to each, which ends in a dot.
    """
    yield path, config
    for key, value in config.items():
        if (
            depth < _DEEPEST
            and isinstance(value, Mapping)
            and str(key).endswith("_config")
        ):
            yield from _parts(value, f"{path}{key}.", depth + 1)


def _size_problem(config: Mapping[str, Any]) -> str:
    """A size that no model has, and what it may be; empty where all may be right."""
    for size, value in _sizes(config):
        least, most = _SIZES[size]
        if type(value) is not int or not least <= value <= most:
            return f"{size} = {str(value)[:40]}; possible: {least} to {most:,}"
    return ""


def _experts_problem(config: Mapping[str, Any]) -> str:
    """More experts for a token than there are; empty where all may be right."""
    sizes = {name: value for name, value in config.items() if type(value) is int}
    # Some routers choose among experts that compute nothing as well.
    n_idle = sizes.get("zero_expert_num", 0)
    for chosen in _CHOSEN:
        for key in _EXPERTS:
            n_experts = sizes.get(key, 0)
            n_possible = n_experts + n_idle
            # A dense model may say that it has one.
            if n_experts > 1 and sizes.get(chosen, 0) > n_possible:
                return (
                    f"{chosen} = {sizes[chosen]:,} of {n_possible:,} experts; "
                    f"possible: 1 to {n_possible:,}"
                )
    return ""


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Every size that this config states."""
    for name in _SIZES:
        value = config.get(name)
        values = [value]
        if name == "attention_types" and isinstance(value, list):
            # GPT-Neo lists patterns of layers, each with how often it is repeated.
            with suppress(TypeError, ValueError):
                values = [sum(len(kinds) * abs(n) for kinds, n in value)]
        elif isinstance(value, list):
            # One for each layer (Gemma 3n), or for each stage of a vision tower.
            values = value
        for size in values:
            if size is not None:
                yield name, size


def fewer_layers(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """Changes to a config.json, given with all defaults, if only these layers are kept."""
    changed: dict[str, Any] = {
        name: len(kept) for name in DEPTH_KEYS if config.get(name)
    }
    depths = {config[name] for name in changed}
    for name, value in config.items():
        is_of_layers = isinstance(value, list) and len(value) in depths
        if is_of_layers and name not in _NOT_OF_LAYERS and "token" not in name:
            changed[name] = [value[index] for index in kept]
    if config.get("per_layer_config"):
        of_layers = {
            int(index): values for index, values in config["per_layer_config"].items()
        }
        changed["per_layer_config"] = {
            place: of_layers[index]
            for place, index in enumerate(kept)
            if index in of_layers
        }
    for name in _FIRST_LAYERS:
        if type(config.get(name)) is int:
            changed[name] = sum(index < config[name] for index in kept)
    if "max_window_layers" in config:
        # The list says it of each layer; vLLM's Qwen 2 wants the number to be that of all.
        changed["max_window_layers"] = len(kept)
    if "attention_layers" in changed:
        # GPT-Neo counts patterns, from which its code makes that list.
        changed["attention_types"] = [
            [[kind], 1] for kind in changed["attention_layers"]
        ]
    return changed
