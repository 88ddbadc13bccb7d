"""What is found of one block or one batch, as bytes."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sparsedash.engine.pruning.reconstruction_error import BlockErrors
from sparsedash.engine.pruning.surgery import weight_of
from sparsedash.engine.pruning.unstructured import MaskedBlock
from sparsedash.schema.errors import CalibrationError

_BITS = {2: torch.int16, 4: torch.int32}
"""Whole numbers as wide as a weight: a zero is one whose bits are all zero."""


def pack_tensors(tensors: Sequence[Tensor]) -> bytes:
    """Tensors as safetensors bytes."""
    return bytes(safetensors.torch.save({str(number): own.contiguous() for number, own in enumerate(tensors)}))


def unpack_tensors(data: bytes) -> list[Tensor]:
    """The tensors that `pack_tensors` packed. Raises CalibrationError on anything else."""
    try:
        tensors = safetensors.torch.load(data)
        return [tensors[str(number)] for number in range(len(tensors))]
    except (safetensors.SafetensorError, KeyError) as error:
        raise CalibrationError(f"Stored parts cannot be read: {error}.", "Start the run again.") from error


def pack_gradients(gradients: Tensor) -> bytes:
    """The mask gradients (s, m) of one block as safetensors bytes."""
    return bytes(safetensors.torch.save({"mask_gradients": gradients.contiguous()}))


def unpack_gradients(data: bytes) -> Tensor:
    """The mask gradients that `pack_gradients` packed. Raises CalibrationError on anything else."""
    try:
        found: Tensor = safetensors.torch.load(data)["mask_gradients"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise CalibrationError(f"Stored gradients cannot be read: {error}.", "Start the run again.") from error
    return found


def pack_masked(block: MaskedBlock, *, refitted: bool) -> bytes:
    """One block's masked weights as safetensors bytes: a bit for each of them, and those that are not zero.

    refitted: whether they differ from the dense ones; where they do not, the bits are enough.
    """
    errors = [[np.nan if error is None else error for error in own] for own in block.errors]
    tensors = {"errors": torch.tensor(errors, dtype=torch.float64).reshape(-1, 3)}
    for name, weight in block.weights.items():
        stays = weight.contiguous().view(_BITS[weight.itemsize]) != 0
        tensors[f"{name} stays"] = torch.from_numpy(np.packbits(stays.numpy()))
        if refitted:
            tensors[f"{name} weights"] = weight[stays]
    return bytes(safetensors.torch.save(tensors))


def unpack_masked(data: bytes, dense: Mapping[str, nn.Linear]) -> MaskedBlock:
    """The block that `pack_masked` packed. dense: its projections by name. Raises CalibrationError on anything else."""
    try:
        tensors = safetensors.torch.load(data)
        fitted, plain, held_out = tensors.pop("errors").T.tolist()
        errors = [(_known(f), _known(p), _known(h)) for f, p, h in zip(fitted, plain, held_out, strict=True)]
        names = {name.rpartition(" ")[0] for name in tensors}
        weights = {name: _unpacked(tensors, name, weight_of(dense[name]).detach().cpu()) for name in sorted(names)}
    except (safetensors.SafetensorError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CalibrationError(f"Stored masks cannot be read: {error}.", "Start the run again.") from error
    return MaskedBlock(weights=weights, errors=errors)


def _known(error: float) -> float | None:
    return None if math.isnan(error) else error


def _unpacked(tensors: Mapping[str, Tensor], name: str, dense: Tensor) -> Tensor:
    bits = np.unpackbits(tensors[f"{name} stays"].numpy())[: dense.numel()]
    stays = torch.from_numpy(bits).bool().reshape(dense.shape)
    weight = torch.zeros(dense.shape, dtype=dense.dtype)
    weight[stays] = tensors[f"{name} weights"] if f"{name} weights" in tensors else dense[stays]
    return weight


def pack_errors(errors: BlockErrors) -> bytes:
    """What one block loses, as JSON."""
    return msgspec.json.encode(errors)


def unpack_errors(data: bytes) -> BlockErrors:
    """The errors that `pack_errors` packed. Raises CalibrationError on anything else."""
    try:
        found: BlockErrors = msgspec.json.decode(data, type=BlockErrors)
    except msgspec.DecodeError as error:
        raise CalibrationError(f"Stored errors cannot be read: {error}.", "Start the run again.") from error
    return found
