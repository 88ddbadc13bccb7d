"""Facts in a model's config, without its weights: the structure, proven on a tiny model, and all
sizes, counted on the meta device.
"""

import json
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers import __version__ as transformers_version
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sparsedash.engine.models import structure_proof as proof
from sparsedash.engine.models.structure import (
    block_experts,
    block_mlps,
    find_structure,
    meta_model,
    mlp_kinds,
    n_parameters,
)
from sparsedash.engine.models.tiny_config import tiny_config
from sparsedash.engine.pruning.experts import tensor_of
from sparsedash.engine.pruning.surgery import is_projection
from sparsedash.schema.errors import ModelError, first_line
from sparsedash.schema.model_shape import (
    ExpertsLayout,
    MlpLayout,
    ModelShape,
    ModelStructure,
)

_ADVICE = "Choose another model, and please report this one."
_OF_FILES = (
    "dtype",
    "torch_dtype",
    "_name_or_path",
    "transformers_version",
    "architectures",
)
"""Keys of a config that say nothing of the model's structure."""
_INSPECTED: dict[str, ModelShape] = {}
"""By the text of a config, what this process has found."""
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")


def no_causal_type(model_type: str) -> str:
    """Error for a type without a causal model, with the types whose names come nearest."""
    problem = (
        f"transformers {transformers_version} does not know the type {model_type[:40]}"
    )
    if model_type in CONFIG_MAPPING:
        problem = (
            f"transformers has no causal language model of the type {model_type[:40]}"
        )
    nearest = get_close_matches(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=3)
    if not nearest:
        return f"{problem}; docs/models.md lists those that can be pruned"
    return f"{problem}; nearest: {', '.join(nearest)}"


def inspect_model(config: PretrainedConfig, reference: str) -> ModelShape:
    """The sizes and the proven structure of the model of this config. Raises ModelError."""
    plain = config.to_dict()
    stored_as = str(plain.get("dtype") or "float32").removeprefix("torch.")
    described = {name: value for name, value in plain.items() if name not in _OF_FILES}
    key = json.dumps(described, sort_keys=True, default=str)
    if key not in _INSPECTED:
        try:
            _INSPECTED[key] = _inspected(config)
        except proof.NotProvenError as error:
            raise ModelError(
                f"{reference} cannot be pruned: {error}.", _ADVICE
            ) from error
    return replace(_INSPECTED[key], stored_bytes=getattr(torch, stored_as).itemsize)


def _inspected(config: PretrainedConfig) -> ModelShape:
    """Raises NotProvenError."""
    kinds = (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    if not any(type(config) in mapping for mapping in kinds):
        raise proof.NotProvenError(no_causal_type(config.model_type))
    try:
        model = meta_model(config)
        structure = find_structure(config, model)
    except ModelError:
        raise
    except Exception as error:
        raise proof.NotProvenError(
            f"its config describes no model: {first_line(error)}"
        ) from error
    return _counted(model, _proven(config, model, structure))


def _proven(
    config: PretrainedConfig, model: PreTrainedModel, structure: ModelStructure
) -> ModelStructure:
    """The structure with what stock code can load of it. Raises NotProvenError."""
    tiny = tiny_config(config)
    try:
        tiny_model = proof.tiny_random_model(tiny)
    except Exception as error:
        problem = f"no tiny model of its type can be made: {first_line(error)}"
        raise proof.NotProvenError(problem) from error
    tiny_structure = find_structure(tiny, tiny_model)
    ids = proof.some_ids()
    proven = (tiny_model, tiny_structure, ids)
    for problem in (
        proof.problem_of(proof.require_causal, tiny_model, ids),
        proof.problem_of(proof.require_walk, *proven),
    ):
        if problem:
            raise proof.NotProvenError(problem)
    mlps_problem = (
        "" if any(structure.mlps) or structure.mixtures else "no MLP was found in it"
    )
    mixing = proof.mixing_blocks(*proven)
    if mixing:
        kinds = mlp_kinds(tiny_model, tiny_structure)
        mixing_kinds = [kinds[index] for index in mixing]
        if layout := tiny_structure.mlps[mixing[0]]:
            mlps_problem = f"{layout.out} mixes tokens"
        tiny_structure = tiny_structure.without_mlps(mixing)
        of_blocks = enumerate(mlp_kinds(model, structure))
        structure = structure.without_mlps(
            [index for index, kind in of_blocks if kind in mixing_kinds]
        )
    if not _kinds(structure) <= _kinds(tiny_structure):
        raise proof.NotProvenError("a tiny model of its type has other MLPs")
    proven = (tiny_model, tiny_structure, ids)
    if any(structure.mlps):
        mlps_problem = proof.problem_of(proof.require_narrowing, *proven)
    if mlps_problem:
        structure = structure.without_mlps()
        tiny_structure = tiny_structure.without_mlps()
    exported = (tiny_model, tiny, tiny_structure, ids)
    experts_problem = ""
    expert_width_problem = ""
    if structure.mixtures:
        expert_width_problem = proof.problem_of(
            proof.require_narrower_experts, *exported
        )
        experts_problem = proof.problem_of(proof.require_fewer_experts, *exported)
    layers_problem = proof.problem_of(proof.require_shorter_export, *exported)
    if mlps_problem and layers_problem and not structure.mixtures:
        raise proof.NotProvenError(
            f"{mlps_problem}, and without a layer {layers_problem}"
        )
    return replace(
        structure,
        mlps_problem=mlps_problem,
        experts_problem=experts_problem,
        expert_width_problem=expert_width_problem,
        width_problem=proof.problem_of(proof.require_even_export, *exported),
        layers_problem=layers_problem,
        plain_cache=not proof.problem_of(proof.require_cache, tiny_model, ids),
    )


def _kinds(structure: ModelStructure) -> set[MlpLayout | str | None]:
    """The different MLPs and experts of a structure, apart from their sizes."""
    kinds: set[MlpLayout | str | None] = set()
    for layout in structure.mlps:
        kinds.add(layout and replace(layout, width=0, value=0))
    for mixture in structure.mixtures.values():
        alike = replace(
            mixture,
            n=0,
            width=0,
            width_value=0,
            n_chosen=0,
            n_groups=min(2, mixture.n_groups),
            shared=mixture.shared and replace(mixture.shared, width=0, value=0),
        )
        kinds.add(str(alike))
    return kinds


def _counted(model: PreTrainedModel, structure: ModelStructure) -> ModelShape:
    """All sizes of a model with this structure. Raises NotProvenError."""
    config: Any = model.config.get_text_config(decoder=True)
    head = model.get_output_embeddings().weight
    other_weights = []
    other_parameters = []
    channels = set[_Channel]()
    experts = set[_Expert]()
    n_active = 0
    for index, block in enumerate(model.get_submodule(structure.blocks).children()):
        n_weights = _n_projected(block)
        n_others = n_parameters(block) - n_weights
        layout = structure.mlps[index]
        if layout:
            channel = _channel_of(block, layout)
            channels.add(channel)
            n_weights -= layout.width * channel.n_weights
            n_others -= layout.width * channel.n_biases
        mixture = structure.mixtures.get(index)
        if mixture:
            expert = _expert_of(block, mixture)
            experts.add(expert)
            # Of experts and router the walk over the block's projections has seen the router alone.
            n_router = _n_projected(block.get_submodule(mixture.router))
            n_unseen = mixture.n * expert.n_parameters - n_router
            n_weights += n_unseen
            n_others -= n_unseen
            n_active += mixture.n_chosen * expert.n_parameters - n_router
        other_weights.append(n_weights)
        other_parameters.append(n_others)
    if len(channels) > 1:
        raise proof.NotProvenError(
            "channels of its MLPs have different numbers of weights"
        )
    if len({expert.n_parameters for expert in experts}) > 1:
        raise proof.NotProvenError("its mixtures have experts of different sizes")
    channel = max(channels, default=_Channel(0, 0))
    expert = max(experts, default=_Expert(0, 0, 0))
    hidden = _hidden(model, structure)
    return ModelShape(
        family=model.config.model_type,
        hidden=hidden,
        vocabulary=len(head),
        widths=tuple(layout.width if layout else 0 for layout in structure.mlps),
        per_channel=channel.n_weights,
        bias_per_channel=channel.n_biases,
        per_expert=expert.n_parameters,
        per_expert_channel=expert.per_channel,
        per_shared_channel=expert.per_shared_channel,
        n_matmul=_n_projected(model) + n_active,
        n_head=head.numel(),
        n_parameters=n_parameters(model),
        attention=_attention_width(config, hidden),
        cache_per_token=_cache_per_token(model),
        other_weights=tuple(other_weights),
        other_parameters=tuple(other_parameters),
        n_beside=_n_beside(model),
        stored_bytes=4,
        structure=structure,
    )


class _Channel(NamedTuple):
    """Parts removed with one channel of an MLP."""

    n_weights: int
    n_biases: int


class _Expert(NamedTuple):
    """Parts removed with one expert, its row of the router included; with one of its channels; and
    with one of the shared expert beside it.
    """

    n_parameters: int
    per_channel: int
    per_shared_channel: int


def _channel_of(block: nn.Module, layout: MlpLayout) -> _Channel:
    inner = [block.get_submodule(name) for name in layout.inner]
    out = block.get_submodule(layout.out)
    n_weights = sum(map(_n_projected, (*inner, out)))
    n_biases = 0
    for module in inner:
        bias = getattr(module, "bias", None)
        if bias is not None:
            n_biases += bias.numel()
    return _Channel(n_weights // layout.width, n_biases // layout.width)


def _expert_of(block: nn.Module, mixture: ExpertsLayout) -> _Expert:
    n_parameters = sum(tensor_of(block, name).numel() for name in mixture.tensors)
    n_inner = sum(tensor_of(block, name).numel() for name in mixture.inner)
    per_shared_channel = 0
    if mixture.shared:
        parts = [block.get_submodule(name) for name in mixture.shared.paths]
        per_shared_channel = sum(map(_n_projected, parts)) // mixture.shared.width
    return _Expert(
        n_parameters // mixture.n,
        n_inner // (mixture.n * mixture.width),
        per_shared_channel,
    )


def _n_beside(model: PreTrainedModel) -> int:
    """Parameters outside the language model: of a vision tower and what joins it."""
    body = model.base_model
    language = model.get_decoder()
    return 0 if language is body else n_parameters(body) - n_parameters(language)


def _hidden(model: PreTrainedModel, structure: ModelStructure) -> int:
    """Width of the residual stream: of what an MLP or an expert puts out."""
    for mlp in block_mlps(model, structure):
        if mlp.width:
            return mlp.out.weight.numel() // mlp.width
    for mixture in block_experts(model, structure).values():
        return len(mixture.out_weight(0))
    hidden: int = model.get_output_embeddings().weight.shape[-1]
    return hidden


def _n_projected(module: nn.Module) -> int:
    """Weights of all projections in it, of convolutions too."""
    return sum(
        part.get_parameter("weight").numel()
        for part in module.modules()
        if is_projection(part) or isinstance(part, nn.Conv1d)
    )


def _attention_width(config: Any, hidden: int) -> int:
    """Width of all heads of a block together; that of the residual stream where layers differ."""
    try:
        n_heads = next(
            (value for name in _HEADS if (value := getattr(config, name, None))), 0
        )
        head_dim = getattr(config, "head_dim", None)
    except Exception:  # noqa: BLE001 - a config refuses what differs from layer to layer
        return hidden
    return n_heads * head_dim if isinstance(n_heads, int) and head_dim else hidden


@torch.no_grad()
def _cache_per_token(model: PreTrainedModel) -> int:
    """Numbers in the key-value cache for one token, over all blocks, as the model itself fills it;
    0 where it keeps other things.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device="meta")
    try:
        cache = DynamicCache()
        model(input_ids=token, cache=cache, use_cache=True)
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        return sum(tensor.numel() for tensor in chain.from_iterable(layers))
    except Exception:  # noqa: BLE001 - a class may need numbers, which the meta device lacks
        return 0
