"""Statistics as bytes, with half of each symmetric matrix left out; and the scores that are made of them."""

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sparsedash.engine.pruning.allocation import ChannelScores
from sparsedash.engine.pruning.layer import Sample, Statistics
from sparsedash.engine.pruning.linalg import mirrored_, pieces
from sparsedash.schema.errors import CalibrationError


def pack(statistics: Statistics) -> bytes:
    """The statistics as safetensors bytes, with half of the symmetric matrix left out.

    The lower triangle is folded into (m + 1) / 2 columns: 4.7 MB instead of 9.4 MB at width 1,536.
    """
    tensors = {
        "second_moment": _fold(statistics.second_moment) if statistics.is_whole else statistics.second_moment,
        "mean": statistics.mean,
        "held_out": statistics.held_out.inputs,
        "held_out_weights": statistics.held_out.weights,
        "n_tokens": torch.tensor(statistics.n_tokens),
    }
    return bytes(safetensors.torch.save(tensors))


def unpack(data: bytes) -> Statistics:
    """The statistics that `pack` packed. Raises CalibrationError on anything else."""
    try:
        tensors = safetensors.torch.load(data)
        held_out, moment = tensors["held_out"], tensors["second_moment"]
        # Statistics from before there were weights have none.
        weights = tensors.get("held_out_weights", torch.ones(len(held_out)))
        return Statistics(
            second_moment=_unfold(moment, len(tensors["mean"])) if moment.ndim == 2 else moment,
            mean=tensors["mean"],
            held_out=Sample(inputs=held_out, weights=weights),
            n_tokens=int(tensors["n_tokens"]),
        )
    except (safetensors.SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise CalibrationError(f"Stored statistics cannot be read: {error}.", "Start the run again.") from error


def pack_scores(found: ChannelScores) -> bytes:
    """The scores of one block's channels as safetensors bytes."""
    return bytes(safetensors.torch.save({"scores": found.scores.contiguous(), "losses": found.losses.contiguous()}))


def unpack_scores(data: bytes) -> ChannelScores:
    """The scores that `pack_scores` packed. Raises CalibrationError on anything else."""
    try:
        tensors = safetensors.torch.load(data)
        return ChannelScores(width=len(tensors["scores"]), scores=tensors["scores"], losses=tensors["losses"])
    except (safetensors.SafetensorError, KeyError) as error:
        raise CalibrationError(f"Stored scores cannot be read: {error}.", "Start the run again.") from error


def _fold(matrix: Tensor) -> Tensor:
    """A symmetric (m, m) as (m + 1, m // 2), m even: its lower half, with the second diagonal block turned over."""
    width = matrix.shape[0]
    if width % 2:
        matrix = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
        width += 1
    half = width // 2
    # Little more than the result at a time: at a width of 16,384 half of the matrix is half a gigabyte.
    folded = torch.empty(width + 1, half)
    folded[half + 1 :] = matrix[half:, :half]
    folded[1 : half + 1] = matrix[:half, :half]
    folded[: half + 1].tril_(-1)
    for rows in pieces(half):
        folded[rows] += matrix[half:, half:][rows].triu(rows.start)
    return folded


def _unfold(folded: Tensor, width: int) -> Tensor:
    even, half = folded.shape[0] - 1, folded.shape[1]
    matrix = torch.empty(even, even)
    matrix[half:, :half] = folded[half + 1 :]
    matrix[:half, half:] = folded[half + 1 :].T
    for square, lower in ((matrix[:half, :half], folded[1 : half + 1]), (matrix[half:, half:], folded[:half].T)):
        mirrored_(square.copy_(lower))
    return matrix[:width, :width].contiguous()
