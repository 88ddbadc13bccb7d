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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from sparsedash.engine.pruning.surgery import is_projection, is_transposed
from sparsedash.schema.errors import ModelError
from sparsedash.schema.model_shape import MlpLayout, ModelStructure

_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_NO_WIDTHS = ("head", "rank", "rope", "window", "conv", "mamba", "ssm", "token_id", "top", "_tok")
"""In the names of keys that never say the width of an MLP. The shapes would refuse them as well:
it saves making a model for each.
"""
_NO_SIZES = (
    *_DEPTHS,
    "hidden_size",
    "vocab_size",
    "max_position_embeddings",
)
_WIDTH_WORDS = ("inner", "intermediate", "ffn")
"""In the names of keys that may be None, where the code has a usual width."""

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class _Moved:
    """A dimension of a tensor that follows a key. before: its size; after: with the key doubled."""

    name: str
    dimension: int
    before: int
    after: int


def find_structure(config: PretrainedConfig) -> ModelStructure:
    """The structure of the model that this config describes. Raises ModelError if it has no blocks."""
    model = meta_model(config)
    path = blocks_path(model)
    blocks = list(model.get_submodule(path).children())
    mlps: list[MlpLayout | None] = [None] * len(blocks)
    list_keys = []
    for key, value in _integers(config, model):
        moved = _following(config, model, key, value)
        if moved is None or not all(part.name.startswith(f"{path}.") for part in moved):
            continue
        for index, parts in _by_block(moved, path).items():
            layout = _layout(blocks[index], parts)
            # Of two MLPs of a block the first key's is pruned.
            if layout is None or mlps[index] is not None:
                continue
            item = value[index] if isinstance(value, list) else value or layout.width
            mlps[index] = replace(layout, key=".".join(key), value=item)
            if isinstance(value, list):
                list_keys.append(".".join(key))
    if not any(mlps):
        mlps = [_sibling_projections(block) for block in blocks]
    return ModelStructure(
        blocks=path,
        mlps=tuple(mlps),
        list_keys=tuple(dict.fromkeys(list_keys)),
    )


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """A model of this config on the meta device: shapes without numbers."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=torch.float32, trust_remote_code=False
        )
    return model


def text_config_path(config: PretrainedConfig) -> KeyPath:
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
    for key in text_config_path(config):
        part = getattr(part, key)
    language: PretrainedConfig = part
    return language


def with_value(config: PretrainedConfig, key: KeyPath, value: object) -> PretrainedConfig:
    """A copy of the config with this value under this key."""
    changed = copy.deepcopy(config)
    set_values_(changed, {".".join(key): value})
    return changed


def narrowed_config(
    config: PretrainedConfig, structure: ModelStructure, widths: Sequence[int]
) -> PretrainedConfig | None:
    """The config of the model whose MLPs have these widths; None where it cannot say that."""
    values = structure.width_values(widths)
    if values is None:
        return None
    narrower = copy.deepcopy(config)
    set_values_(narrower, values)
    return narrower


def set_values_(config: PretrainedConfig, values: Mapping[str, object]) -> None:
    """Set values of a config, by keys with dots between nested configs."""
    for path, value in values.items():
        *parents, key = path.split(".")
        owner: Any = config
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, key, value)


def n_layers(config: PretrainedConfig) -> int | None:
    """Decoder blocks that the config of a language model states; None if it states none."""
    for name in _DEPTHS:
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
    depth = n_layers(model.config.get_text_config(decoder=True))
    while owner:
        owner = owner.rpartition(".")[0]
        prefix = f"{owner}." if owner else ""
        lists = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and name.startswith(prefix)
        }
        outer = {
            name: module
            for name, module in lists.items()
            if not any(name.startswith(f"{other}.") for other in lists)
        }
        fitting = [name for name, module in outer.items() if len(module) == depth] or list(outer)
        if fitting:
            largest: str = max(fitting, key=lambda name: _n_parameters(outer[name]))
            return largest
    raise ModelError(f"{type(model).__name__} has no list of decoder blocks.")


def _n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _integers(config: PretrainedConfig, model: PreTrainedModel) -> Iterator[tuple[KeyPath, Any]]:
    """Keys of the language model's config that may say a width, with their values.

    A value is an integer or a list of one for each block, or None where the code has a usual width.
    """
    n_blocks = len(list(model.get_submodule(blocks_path(model)).children()))
    sizes = {size for parameter in model.parameters() for size in parameter.shape}
    path = text_config_path(config)
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
                yield (*prefix, key), value


def _are_sizes(values: Sequence[object], sizes: set[int]) -> bool:
    return all(type(value) is int and _may_move(value, sizes) for value in values)


def _may_move(value: int, sizes: set[int]) -> bool:
    """Whether some dimension of the model may follow this value: a multiple of it, or a part."""
    return value > 1 and any(
        size % value == 0 or (size > 1 and value % size == 0) for size in sizes
    )


def _following(
    config: PretrainedConfig, model: PreTrainedModel, key: KeyPath, value: Any
) -> list[_Moved] | None:
    """What follows the key; None where that is not one dimension of each tensor, doubled."""
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    doubled = [2 * item for item in value] if isinstance(value, list) else 2 * (value or 0)
    if value is None:
        # Any width will do that no dimension has by chance.
        doubled = 2 * max(size for shape in before.values() for size in shape)
    try:
        changed = meta_model(with_value(config, key, doubled))
    except Exception:  # noqa: BLE001 - a class may refuse the value by any error
        return None
    after = {name: tensor.shape for name, tensor in changed.state_dict().items()}
    if after.keys() != before.keys():
        return None
    moved = []
    for name, shape in before.items():
        if shape == after[name]:
            continue
        if len(shape) != len(after[name]):
            return None
        axes = [axis for axis, size in enumerate(shape) if after[name][axis] != size]
        if len(axes) > 1:
            return None
        (axis,) = axes
        moved.append(_Moved(name, axis, shape[axis], after[name][axis]))
    return moved or None


def _by_block(moved: Sequence[_Moved], path: str) -> Mapping[int, list[_Moved]]:
    """By block, what follows in it, with names that begin in the block."""
    blocks = defaultdict(list)
    for part in moved:
        number, _, name = part.name.removeprefix(f"{path}.").partition(".")
        blocks[int(number)].append(_Moved(name, part.dimension, part.before, part.after))
    return blocks


def _layout(block: nn.Module, moved: Sequence[_Moved]) -> MlpLayout | None:
    """The one MLP that these tensors of a block are; None if they are something else."""
    modules = {}
    for part in moved:
        owner = part.name.rpartition(".")[0]
        module = block.get_submodule(owner)
        if not is_projection(module):
            return None
        modules[owner] = module
    outs = [name for part in moved if (name := _enters(part, modules))]
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
    return MlpLayout(inner=tuple(inner), out=out, width=width, fused=rows.pop(), out_bias=out_bias)


def _enters(part: _Moved, modules: Mapping[str, nn.Module]) -> str:
    """The projection whose input follows, or ""."""
    owner, _, name = part.name.rpartition(".")
    if name != "weight":
        return ""
    input_axis = 0 if is_transposed(modules[owner]) else 1
    return owner if part.dimension == input_axis else ""


def _in_and_out(module: nn.Module) -> tuple[int, int]:
    """Widths of a projection's input and output."""
    first, second = module.get_parameter("weight").shape
    return (first, second) if is_transposed(module) else (second, first)


def _sibling_projections(block: nn.Module) -> MlpLayout | None:
    """The MLP of a block whose width no key says: sibling projections from the hidden width to a
    larger one and back.
    """
    for parent, module in block.named_modules():
        own = {name: part for name, part in module.named_children() if is_projection(part)}
        for out, part in own.items():
            width, hidden = _in_and_out(part)
            inner = [name for name in own if _in_and_out(own[name]) == (hidden, width)]
            if inner and width > hidden:
                prefix = f"{parent}." if parent else ""
                return MlpLayout(
                    inner=tuple(f"{prefix}{name}" for name in inner),
                    out=f"{prefix}{out}",
                    width=width,
                    out_bias=getattr(part, "bias", None) is not None,
                )
    return None
