"""Finds the MLPs of a model from its config alone, without its weights.

An integer of the config is changed, and the model made again on the meta device: the tensors whose
shapes follow are one group, the dimension that follows is its axis, and by how much it moves says
what is fused. A key that moves nothing but projections from the hidden width and back to it is the
width of an MLP, and the key that an export writes. No path and no name of a projection is assumed.

Whether that is right is shown by `structure_proof` on a tiny model of the same kind.
"""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, takewhile
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

from sparsedash.catalog.config_checks import DEPTH_KEYS
from sparsedash.catalog.model_hints import DERIVED_WIDTHS
from sparsedash.engine.pruning.experts import Experts, tensor_of
from sparsedash.engine.pruning.surgery import Mlp, is_projection, is_transposed
from sparsedash.schema.errors import ModelError
from sparsedash.schema.model_shape import ExpertsLayout, MlpLayout, ModelStructure

_NO_WIDTHS = (
    "head",
    "rank",
    "rope",
    "window",
    "conv",
    "mamba",
    "ssm",
    "token_id",
    "top",
    "_tok",
    "shared_experts",
)
"""In the names of keys that never say the width of an MLP. The shapes would refuse them as well:
it saves making a model for each.
"""
_NO_SIZES = (
    *DEPTH_KEYS,
    "hidden_size",
    "vocab_size",
    "max_position_embeddings",
)
_GROUPS = ("n_group", "num_expert_group")
"""Keys that say into how many groups a router divides its experts."""
_WIDTH_WORDS = ("inner", "intermediate", "ffn")
"""In the names of keys that may be None, where the code has a usual width."""

Moved = Mapping[str, int]
"""By a tensor's name, the dimension of it that follows a key of the config."""


def find_structure(config: PretrainedConfig, model: PreTrainedModel) -> ModelStructure:
    """The structure of a model that was made of this config. Raises ModelError if it has no blocks."""
    path = blocks_path(model)
    blocks = list(model.get_submodule(path).children())
    mlps: list[MlpLayout | None] = [None] * len(blocks)
    experts: list[ExpertsLayout | None] = [None] * len(blocks)
    list_keys = []
    inner_of_experts: dict[str, Mapping[int, Moved]] = {}
    shapes = _shapes(model)
    sizes = dict(_integers(config, len(blocks), shapes))
    derived_key, beside_widths = _derived_width(config)
    if derived_key:
        # Before others, by which the same width moves.
        sizes.pop(derived_key, None)
        sizes = {derived_key: None, **sizes}
    for key, value in sizes.items():
        fixed = beside_widths if key == derived_key else {}
        moved = _following(config, shapes, key, value, fixed)
        if not all(name.startswith(f"{path}.") for name in moved):
            continue
        moved_blocks = _by_block(moved, path)
        inner_of_experts[key] = moved_blocks
        for index, parts in moved_blocks.items():
            mixture = _mixture(blocks[index], parts, key, value)
            if mixture is not None:
                experts[index] = _routed(blocks[index], mixture, model)
                continue
            layout = _layout(blocks[index], parts)
            # Of two MLPs of a block the first key's is pruned.
            if layout is None or mlps[index] is not None:
                continue
            item = value[index] if isinstance(value, list) else value or layout.width
            mlps[index] = replace(layout, key=key, value=item)
            if isinstance(value, list):
                list_keys.append(key)
    experts = [
        mixture and _with_width(mixture, index, config, blocks, inner_of_experts)
        for index, mixture in enumerate(experts)
    ]
    if not any(mlps) and not any(experts):
        mlps = [_sibling_projections(block) for block in blocks]
    return ModelStructure(
        blocks=path,
        mlps=tuple(mlps),
        experts=tuple(experts) if any(experts) else (),
        list_keys=tuple(dict.fromkeys(list_keys)),
        beside_widths=beside_widths,
    )


def block_mlps(model: PreTrainedModel, structure: ModelStructure) -> list[Mlp]:
    """The MLP of every block of a model; one without channels where a block has none."""
    blocks = model.get_submodule(structure.blocks).children()
    hidden = model.get_input_embeddings().weight.shape[-1]
    mlps = []
    for block, layout in zip(blocks, structure.mlps, strict=True):
        if layout is None:
            # It is never called, so that its input is never seen.
            nothing = _NoChannels(
                0, hidden, bias=False, dtype=model.dtype, device=model.device
            )
            mlps.append(Mlp((), nothing))
        else:
            inner = tuple(block.get_submodule(name) for name in layout.inner)
            mlps.append(Mlp(inner, block.get_submodule(layout.out), layout.fused))
    return mlps


def mlp_kinds(model: PreTrainedModel, structure: ModelStructure) -> list[object]:
    """A key a block, equal where MLPs do the same: the names of its projections, and of all
    parameters of its block.
    """
    blocks = model.get_submodule(structure.blocks).children()
    kinds: list[object] = []
    for block, layout in zip(blocks, structure.mlps, strict=True):
        parameters = frozenset(name for name, _ in block.named_parameters())
        kinds.append((layout and layout.out, parameters))
    return kinds


class _NoChannels(nn.Linear):
    """A projection of no channels."""

    def reset_parameters(self) -> None:
        """Do nothing: there is nothing to initialise, of which torch would warn."""


def block_experts(
    model: PreTrainedModel, structure: ModelStructure
) -> dict[int, Experts]:
    """The experts of those blocks of a model that have some, by block."""
    blocks = list(model.get_submodule(structure.blocks).children())
    return {
        index: Experts(blocks[index], layout)
        for index, layout in structure.mixtures.items()
    }


def auto_class(config: PretrainedConfig) -> Any:
    """The automatic class that makes models of this config: of text and images where the class for
    text alone would leave the tower out.
    """
    kind = type(config)
    of_images = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(kind, None)
    if of_images in (None, MODEL_FOR_CAUSAL_LM_MAPPING.get(kind, None)):
        return AutoModelForCausalLM
    return AutoModelForImageTextToText


def model_of(config: PretrainedConfig) -> PreTrainedModel:
    """A new causal model of this config, in FP32, by stock code."""
    model: PreTrainedModel = auto_class(config).from_config(
        copy.deepcopy(config), dtype=torch.float32, trust_remote_code=False
    )
    return model


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The same on the meta device: shapes without numbers."""
    with torch.device("meta"):
        return model_of(config)


def _language_path(config: PretrainedConfig) -> tuple[str, ...]:
    """Keys from a config to that of its language model; empty where it is the same one."""
    text = config.get_text_config(decoder=True)
    if text is config:
        return ()
    for key, part in vars(config).items():
        if part is text:
            return (key,)
        for inner_key, inner_part in getattr(part, "__dict__", {}).items():
            if inner_part is text:
                return (key, inner_key)
    return ()


def language_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the language model inside a config, or itself; the very object."""
    part: Any = config
    for key in _language_path(config):
        part = getattr(part, key)
    language: PretrainedConfig = part
    return language


def with_values(
    config: PretrainedConfig, values: Mapping[str, object]
) -> PretrainedConfig:
    """A copy of the config with these values; see `set_values_`."""
    changed = copy.deepcopy(config)
    set_values_(changed, values)
    return changed


def set_values_(config: PretrainedConfig, values: Mapping[str, object]) -> None:
    """Set values of a config, by keys with dots between nested configs."""
    for path, value in values.items():
        part, _, key = path.rpartition(".")
        setattr(attrgetter(part)(config) if part else config, key, value)


def _depth(config: PretrainedConfig) -> int | None:
    """Decoder blocks that the config of a language model states; None if it states none."""
    for name in DEPTH_KEYS:
        depth = getattr(config, name, None)
        if isinstance(depth, int):
            return depth
    return None


def blocks_path(model: PreTrainedModel) -> str:
    """Path to the list of decoder blocks: the list of the depth that the config states, in the
    module that owns the input embedding. Raises ModelError.
    """
    embedding = model.get_input_embeddings()
    owner = next(name for name, module in model.named_modules() if module is embedding)
    depth = _depth(model.config.get_text_config(decoder=True))
    while owner:
        owner = owner.rpartition(".")[0]
        prefix = f"{owner}." if owner else ""
        lists = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and name.startswith(prefix)
        }
        inside = tuple(f"{name}." for name in lists)
        outer = {
            name: module
            for name, module in lists.items()
            if not name.startswith(inside)
        }
        fitting = [
            name for name, module in outer.items() if len(module) == depth
        ] or list(outer)
        if fitting:
            largest: str = max(fitting, key=lambda name: n_parameters(outer[name]))
            return largest
    raise ModelError(f"{type(model).__name__} has no list of decoder blocks.")


def n_parameters(module: nn.Module) -> int:
    """Parameters of a module; what is shared counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _shapes(model: PreTrainedModel) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _integers(
    config: PretrainedConfig, n_blocks: int, shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[str, Any]]:
    """Keys of the language model's config that may say a width, with their values.

    A value is an integer or a list of one for each block, or None where the code has a usual width.
    """
    sizes = set(chain.from_iterable(shapes.values()))
    path = _language_path(config)
    text = language_config(config)
    nested = [((*path, key), part) for key, part in vars(text).items() if "ffn" in key]
    for prefix, part in [(path, text), *nested]:
        for key, value in list(getattr(part, "__dict__", {}).items()):
            is_private = key.startswith("_") or key in _NO_SIZES
            if is_private or any(word in key for word in _NO_WIDTHS):
                continue
            is_unstated = value is None and any(word in key for word in _WIDTH_WORDS)
            is_list = isinstance(value, list) and len(value) == n_blocks
            if is_unstated or _are_sizes(value if is_list else [value], sizes):
                yield ".".join((*prefix, key)), value


def _derived_width(config: PretrainedConfig) -> tuple[str, dict[str, bool | None]]:
    """This type's row of `DERIVED_WIDTHS`, with the keys of the whole config; empty for most."""
    key, beside = DERIVED_WIDTHS.get(language_config(config).model_type, ("", {}))
    prefix = "".join(f"{part}." for part in _language_path(config))
    beside_widths = {f"{prefix}{name}": value for name, value in beside.items()}
    return key and f"{prefix}{key}", beside_widths


def _are_sizes(values: Sequence[object], sizes: set[int]) -> bool:
    return all(type(value) is int and _may_move(value, sizes) for value in values)


def _may_move(value: int, sizes: set[int]) -> bool:
    """Whether some dimension of the model may follow this value: a multiple of it, or a part."""
    return value > 1 and any(
        size % value == 0 or (size > 1 and value % size == 0) for size in sizes
    )


def _following(
    config: PretrainedConfig,
    before: Mapping[str, torch.Size],
    key: str,
    value: Any,
    beside: Mapping[str, bool | None],
) -> Moved:
    """The dimension of each tensor that follows the key; empty where one has several.

    before: shapes. beside: see `ModelStructure.beside_widths`.
    """
    if value is None:
        # Any width will do that no dimension has by chance.
        larger: Any = 2 * max(chain.from_iterable(before.values()))
    else:
        larger = [2 * item for item in value] if isinstance(value, list) else 2 * value
    try:
        values = {
            name: larger if fixed is None else fixed for name, fixed in beside.items()
        }
        after = _shapes(meta_model(with_values(config, {key: larger, **values})))
    except Exception:  # noqa: BLE001 - a class may refuse the value by any error
        return {}
    if after.keys() != before.keys():
        return {}
    moved = {}
    for name, shape in before.items():
        if shape == after[name]:
            continue
        if len(shape) != len(after[name]):
            return {}
        axes = [axis for axis, size in enumerate(shape) if after[name][axis] != size]
        if len(axes) > 1:
            return {}
        (moved[name],) = axes
    return moved


def _by_block(moved: Moved, path: str) -> Mapping[int, Moved]:
    """By block, what follows in it, with names that begin in the block."""
    blocks: dict[int, dict[str, int]] = defaultdict(dict)
    for full_name, axis in moved.items():
        number, _, name = full_name.removeprefix(f"{path}.").partition(".")
        blocks[int(number)][name] = axis
    return blocks


def _layout(block: nn.Module, moved: Moved) -> MlpLayout | None:
    """The one MLP that these tensors of a block are; None if they are something else."""
    modules = {}
    outs = []
    for name, axis in moved.items():
        owner, _, kind = name.rpartition(".")
        module = block.get_submodule(owner)
        if not is_projection(module):
            return None
        modules[owner] = module
        input_axis = 0 if is_transposed(module) else 1
        if kind == "weight" and axis == input_axis:
            outs.append(owner)
    inner = [name for name in modules if name not in outs]
    if len(outs) != 1 or not inner:
        return None
    (out,) = outs
    width, hidden = _in_and_out(modules[out])
    rows = set()
    for name in inner:
        n_in, n_out = _in_and_out(modules[name])
        if n_in != hidden or n_out % width:
            return None
        rows.add(n_out // width)
    if len(rows) != 1:
        return None
    out_bias = getattr(modules[out], "bias", None) is not None
    return MlpLayout(
        inner=tuple(inner), out=out, width=width, fused=rows.pop(), out_bias=out_bias
    )


def _mixture(
    block: nn.Module, moved: Moved, key: str, value: Any
) -> ExpertsLayout | None:
    """The experts whose number these tensors of a block follow; None if they are something else."""
    if not isinstance(value, int):
        return None
    n = value
    holders = set()
    owners_of_rows = set()
    for name, axis in moved.items():
        owner = name.rpartition(".")[0]
        tensor = tensor_of(block, name)
        if tensor.shape[axis] < n:
            return None
        if tensor.dim() == 3 and axis == 0 and len(tensor) == n:
            holders.add(owner)
        elif tensor.dim() == 2 and axis == 0 and tensor.shape[1] > 1:
            owners_of_rows.add(owner)
    routers = owners_of_rows - holders
    if len(holders) != 1 or len(routers) != 1:
        return None
    path = holders.pop()
    router = routers.pop()
    if f"{path}.down_proj" not in moved or f"{router}.weight" not in moved:
        return None
    if not hasattr(block.get_submodule(path), "is_transposed"):
        # Not by transformers' interface for experts, which says how they compute.
        return None
    out = tensor_of(block, f"{path}.down_proj")
    return ExpertsLayout(
        path=path,
        router=router,
        tensors=dict(moved),
        n=n,
        width=out[0].numel() // tensor_of(block, f"{router}.weight").shape[1],
        n_chosen=0,
        n_groups=1,
        key=key,
    )


def _with_width(
    mixture: ExpertsLayout,
    block: int,
    config: PretrainedConfig,
    blocks: Sequence[nn.Module],
    moved_by: Mapping[str, Mapping[int, Moved]],
) -> ExpertsLayout:
    """The experts with the key of their width, where one moves nothing but them in any block, or
    them and a shared expert.

    moved_by: what follows each key, by block.
    """
    for key, moved in moved_by.items():
        if key == mixture.key or block not in moved:
            continue
        inner = {
            name: axis for name, axis in moved[block].items() if _is_of(mixture, name)
        }
        beside = [
            _others(blocks[index], mixture, parts) for index, parts in moved.items()
        ]
        shared = _others(blocks[block], mixture, moved[block])
        if not inner or not all(layout == shared for layout in beside):
            continue
        if shared is not None and (shared.width == 0 or shared.width % mixture.width):
            continue
        value = attrgetter(key)(config)
        return replace(
            mixture, inner=inner, width_key=key, width_value=value, shared=shared
        )
    return mixture


def _is_of(mixture: ExpertsLayout, name: str) -> bool:
    """Whether a tensor of a block is one of its experts."""
    return name.startswith(f"{mixture.path}.")


def _others(block: nn.Module, mixture: ExpertsLayout, moved: Moved) -> MlpLayout | None:
    """The MLP that follows a key beside the experts of a block; None where nothing else does, one
    without channels where it is something else.
    """
    others = {name: axis for name, axis in moved.items() if not _is_of(mixture, name)}
    if not others:
        return None
    nothing = MlpLayout(inner=(), out="", width=0)
    has_experts = len(others) < len(moved)
    return (_layout(block, others) if has_experts else None) or nothing


def _routed(
    block: nn.Module, layout: ExpertsLayout, model: PreTrainedModel
) -> ExpertsLayout | None:
    """The layout with how many experts are chosen for a token, as the block itself does it; None
    where its experts are called in another way, so that the choice cannot be seen.
    """
    experts = block.get_submodule(layout.path)
    # What holds both the router and the experts.
    shared = zip(layout.path.split("."), layout.router.split("."), strict=False)
    parent = [name for name, _ in takewhile(lambda pair: pair[0] == pair[1], shared)]
    chosen: list[int] = []

    def choose(*inputs: Any, **named_inputs: Any) -> torch.Tensor:
        arguments = [*inputs, *named_inputs.values()]
        hidden, choices, _ = arguments
        chosen.append(choices.shape[-1])
        return torch.zeros_like(hidden)

    rows = block.get_submodule(layout.router).get_parameter("weight")
    token = rows.new_zeros(1, 1, rows.shape[1])
    experts.forward = choose
    try:
        with torch.no_grad():
            block.get_submodule(".".join(parent))(token)
    except Exception:  # noqa: BLE001 - a class may want other arguments, and refuse by any error
        return None
    finally:
        del experts.forward
    config = language_config(model.config)
    groups = [getattr(config, name, None) for name in _GROUPS]
    n_groups = next((n for n in groups if n), 1)
    return replace(layout, n_chosen=chosen[0], n_groups=n_groups) if chosen else None


def _in_and_out(module: nn.Module) -> tuple[int, int]:
    """Widths of a projection's input and output."""
    first, second = module.get_parameter("weight").shape
    return (first, second) if is_transposed(module) else (second, first)


def _sibling_projections(block: nn.Module) -> MlpLayout | None:
    """The MLP of a block whose width no key says: sibling projections from the hidden width to a
    larger one and back.
    """
    for parent, module in block.named_modules():
        projections = {
            name: part for name, part in module.named_children() if is_projection(part)
        }
        for out, part in projections.items():
            width, hidden = _in_and_out(part)
            inner = [
                name
                for name in projections
                if _in_and_out(projections[name]) == (hidden, width)
            ]
            if inner and width > hidden:
                prefix = f"{parent}." if parent else ""
                return MlpLayout(
                    inner=tuple(f"{prefix}{name}" for name in inner),
                    out=f"{prefix}{out}",
                    width=width,
                    out_bias=getattr(part, "bias", None) is not None,
                )
    return None
