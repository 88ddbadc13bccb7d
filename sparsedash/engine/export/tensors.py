"""The tensors of a sparse model in one form, under the names that the model's own code reads them by.

Dimensions: d hidden width, m inner width, k kept channels, w width in the file.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparsedash.engine.pruning.surgery import out_weight, weight_of
from sparsedash.engine.run.sparse_model import PrunedChannels, SparseModel
from sparsedash.schema.errors import ExportError

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHT, _BIAS = "weight", "bias"


def exported_tensors(made: SparseModel, width: int | None, weights: str) -> dict[str, Tensor]:
    """Every tensor of the file by its name, on the CPU; what is shared stands once.

    width: channels that every MLP has in the file; None: the dense ones, each channel in its own place. weights: a
    floating-point type. Raises ExportError for a tensor that stock code has no place for, or whose numbers this type
    cannot hold. Asked while the loaded model is the dense one.
    """
    loaded, dtype = made.loaded, _TYPES[weights]
    hold = loaded.residency.hold
    changed = {name: hold(tensor) for name, tensor in changed_tensors(made, width)}
    dense = _stored_once(loaded.model)
    if strange := sorted(set(changed) - set(dense)):
        raise ExportError(
            f"The sparse model has {strange[0]}, for which its family's stock code has no place.",
            "Choose a method that gives no layer a bias, such as least-squares.",
        )
    cast = {}
    for name, tensor in dense.items():
        cast[name] = _cast(name, changed.get(name, tensor), dtype)
        loaded.residency.drop()
    return cast


def changed_tensors(made: SparseModel, width: int | None) -> Iterator[tuple[str, Tensor]]:
    """The tensors that differ from the dense model's, with their names. width: see `exported_tensors`."""
    loaded = made.loaded
    blocks = loaded.projections("decoder")
    for index, block in enumerate(blocks):
        if isinstance(made, PrunedChannels):
            tensors = block_tensors(made, index, width)
        else:
            tensors = {f"{name}.{_WEIGHT}": weight for name, weight in made.masked[index].weights.items()}
        for name, tensor in tensors.items():
            module, _, kind = name.rpartition(".")
            yield f"{loaded.family.blocks}.{index}.{name}", _stored(block[module], tensor, kind)


def block_tensors(made: PrunedChannels, index: int, width: int | None) -> dict[str, Tensor]:
    """The tensors of one block's MLP by their names within the block, weights as (out, in).

    width: see `exported_tensors`.
    """
    mlp, narrow, family = made.loaded.mlps[index], made.narrowed[index], made.loaded.family
    kept, w = narrow.kept, mlp.width if width is None else width
    places = kept if width is None else torch.arange(len(kept))
    tensors = {}
    for name, module in zip(family.inner, mlp.inner, strict=True):
        for kind, whole in ((_WEIGHT, weight_of(module)), (_BIAS, module.bias)):
            if whole is not None:
                # One part after another where gate and up are one projection.
                parts = whole.detach().cpu().chunk(mlp.fused)
                tensors[f"{name}.{kind}"] = torch.cat([_rows(part, kept, places, w) for part in parts])
    dense = out_weight(mlp)
    out = torch.zeros(len(dense), w, dtype=dense.dtype)
    out[:, places] = narrow.out_weight.to("cpu", dense.dtype)
    tensors[f"{family.out}.{_WEIGHT}"] = out
    bias = mlp.out.bias if narrow.out_bias is None else narrow.out_bias
    if bias is not None:
        tensors[f"{family.out}.{_BIAS}"] = bias.detach().to("cpu", dense.dtype)
    return tensors


def _rows(part: Tensor, kept: Tensor, places: Tensor, w: int) -> Tensor:
    """part: (m, ...). Returns (w, ...): the kept rows in their places, zeros elsewhere."""
    rows = torch.zeros(w, *part.shape[1:], dtype=part.dtype)
    rows[places] = part[kept]
    return rows


def _stored(module: nn.Linear, tensor: Tensor, kind: str) -> Tensor:
    """A weight (out, in) as this module stores it; a bias as it is."""
    as_it_is = kind == _BIAS or weight_of(module) is module.weight
    return tensor if as_it_is else tensor.T


def _stored_once(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without the second name of what two modules share."""
    once = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in once}


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype).contiguous()
    if not bool(cast.isfinite().all()):
        raise ExportError(
            f"{name} holds numbers that {str(dtype).removeprefix('torch.')} cannot.",
            "Choose bfloat16, which reaches as far as float32.",
        )
    return cast
