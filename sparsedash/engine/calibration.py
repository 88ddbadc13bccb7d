"""Statistics of every MLP's inner activations over calibration text, block by block.

Dimensions: m inner width, n tokens.
"""

from collections.abc import Callable, Sequence
from random import Random

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from sparsedash.engine.blocks import BlockWalk, batches_by_length
from sparsedash.engine.corpora import Texts
from sparsedash.engine.models import LoadedModel
from sparsedash.engine.pruning.layer import Statistics
from sparsedash.errors import CalibrationError
from sparsedash.progress import OnStep
from sparsedash.settings import CalibrationSettings

BATCH_TOKENS = 4096
HELD_OUT_EVERY = 16
HELD_OUT_TOKENS = 512
MIN_TOKENS_PER_CHANNEL = 4
FEW_TOKENS_PER_CHANNEL = 20
_COLUMNS = 512


def calibration_sequences(
    loaded: LoadedModel, texts: Texts, settings: CalibrationSettings
) -> list[list[int]]:
    """Token ids of the calibration text: documents in an order drawn by the seed, at most n_samples * length tokens.

    A long document is cut to `length`, a short one stays short, so that each begins as evaluated passages begin; a
    running text is joined first and cut into pieces of `length`.
    """
    length = min(settings.length, loaded.max_length)
    budget = settings.n_samples * length
    pieces: list[str] | list[list[int]] = list(texts.texts)
    if texts.running:
        pieces = _pieces(loaded, "\n\n".join(texts.texts), length)
    Random(settings.seed).shuffle(pieces)
    chosen: list[list[int]] = []
    for piece in pieces:
        ids = loaded.tokenizer(piece).input_ids if isinstance(piece, str) else piece
        ids = ids[: min(length, budget)]
        if len(ids) >= 2:
            chosen.append(ids)
            budget -= len(ids)
        if budget < 2:
            break
    return chosen


def first_tokens(sequences: Sequence[list[int]], n_tokens: int) -> list[list[int]]:
    """The first of these sequences, as many as hold n_tokens together; one at least."""
    chosen: list[list[int]] = []
    for ids in sequences:
        if chosen and sum(map(len, chosen)) + len(ids) > n_tokens:
            break
        chosen.append(ids)
    return chosen


def few_tokens_warning(loaded: LoadedModel, n_tokens: int) -> str | None:
    """A line when there are too few tokens to trust the fit. Raises CalibrationError when there are far too few."""
    width = max(mlp.width for mlp in loaded.mlps)
    if n_tokens < MIN_TOKENS_PER_CHANNEL * width:
        raise CalibrationError(
            f"{n_tokens:,} calibration tokens are too few for {width:,} channels; needed: {MIN_TOKENS_PER_CHANNEL} a channel.",
            "Ask for more samples, longer ones, or a larger text set.",
        )
    if n_tokens < FEW_TOKENS_PER_CHANNEL * width:
        return f"Calibrated on {n_tokens / width:.0f} tokens a channel; from {FEW_TOKENS_PER_CHANNEL} on the fit is steadier."
    return None


@torch.no_grad()
def calibrate(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    keep: Callable[[int, Statistics], None],
    on_step: OnStep,
) -> None:
    """Walk the text through the blocks and hand the statistics of each block to `keep`, in their order.

    One block's statistics are in memory at a time. Every HELD_OUT_EVERY-th sequence only serves the held-out sample.
    """
    device = loaded.model.device
    pad = loaded.tokenizer.pad_token_id or 0
    batches = batches_by_length(sequences, BATCH_TOKENS, pad, device)
    walk = BlockWalk(loaded.model.base_model, loaded.blocks, [batch for _, batch in batches])
    held_out_stride = _held_out_stride(sequences)
    n_blocks = len(loaded.blocks)
    for index, mlp in enumerate(loaded.mlps):
        gathered = _Gathered(mlp.width, device, held_out_stride)
        handle = mlp.out.register_forward_pre_hook(lambda _, inputs, g=gathered: g.add(inputs[0]))
        try:
            for number in walk.step(index):
                rows, batch = batches[number]
                held_out = torch.tensor(
                    [row % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for row in rows]
                )
                gathered.expect(batch.mask.bool(), held_out.to(device))
                done = index * len(batches) + number
                on_step("calibrate", done, n_blocks * len(batches), unit="batches")
        finally:
            handle.remove()
        keep(index, gathered.statistics())
    on_step("calibrate", n_blocks * len(batches), n_blocks * len(batches), unit="batches")


class _Gathered:
    """Running sums over the tokens of one block."""

    def __init__(self, width: int, device: torch.device, held_out_stride: int) -> None:
        self._moment = torch.zeros(width, width, device=device)
        self._sum = torch.zeros(width, device=device)
        self._held_out: list[Tensor] = []
        self._stride = held_out_stride
        self._n_tokens = 0

    def expect(self, mask: Tensor, held_out: Tensor) -> None:
        """What the next `add` will be: mask (b, t) of real tokens, held_out (b,) of sequences kept out."""
        self._fit = mask & ~held_out[:, None]
        self._out = mask & held_out[:, None]

    def add(self, activations: Tensor) -> None:
        """activations: (b, t, m), the input of the out-projection."""
        activations = activations.reshape(*self._fit.shape, -1)
        fit = activations[self._fit].float()
        add_second_moment_(self._moment, fit)
        self._sum += fit.sum(dim=0)
        self._n_tokens += len(fit)
        self._held_out.append(activations[self._out][:: self._stride].float())

    def statistics(self) -> Statistics:
        moment = self._moment.tril_()
        moment = moment + moment.tril(-1).T
        return Statistics(
            second_moment=(moment / self._n_tokens).cpu(),
            mean=(self._sum / self._n_tokens).cpu(),
            held_out=torch.cat(self._held_out).cpu(),
            n_tokens=self._n_tokens,
        )


def add_second_moment_(moment: Tensor, activations: Tensor) -> None:
    """Add x^T x to the lower triangle of `moment`, in place; what is above it is left undefined.

    moment: (m, m). activations: (n, m). Column blocks skip most of the upper triangle, which is half of the work.
    """
    width = moment.shape[0]
    for start in range(0, width, _COLUMNS):
        stop = min(start + _COLUMNS, width)
        moment[start:, start:stop].addmm_(activations[:, start:].T, activations[:, start:stop])


def pack(statistics: Statistics) -> bytes:
    """The statistics as safetensors bytes, with half of the symmetric matrix left out.

    The lower triangle is folded into (m + 1) / 2 columns: 4.7 MB instead of 9.4 MB at width 1,536.
    """
    tensors = {
        "second_moment": _fold(statistics.second_moment),
        "mean": statistics.mean,
        "held_out": statistics.held_out,
        "n_tokens": torch.tensor(statistics.n_tokens),
    }
    return bytes(safetensors.torch.save(tensors))


def unpack(data: bytes) -> Statistics:
    """What `pack` packed. Raises CalibrationError on anything else."""
    try:
        tensors = safetensors.torch.load(data)
        return Statistics(
            second_moment=_unfold(tensors["second_moment"], len(tensors["mean"])),
            mean=tensors["mean"],
            held_out=tensors["held_out"],
            n_tokens=int(tensors["n_tokens"]),
        )
    except (safetensors.SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise CalibrationError(
            f"Stored statistics cannot be read: {error}.", "Start the run again."
        ) from error


def _fold(matrix: Tensor) -> Tensor:
    """A symmetric (m, m) as (m + 1, m // 2), m even: its lower half, with the second diagonal block turned over."""
    width = matrix.shape[0]
    if width % 2:
        matrix = torch.nn.functional.pad(matrix, (0, 1, 0, 1))
        width += 1
    half = width // 2
    folded = torch.zeros(width + 1, half)
    folded[1 : half + 1] = matrix[:half, :half].tril()
    folded[half + 1 :] = matrix[half:, :half]
    folded[:half] += matrix[half:, half:].triu()
    return folded


def _unfold(folded: Tensor, width: int) -> Tensor:
    even, half = folded.shape[0] - 1, folded.shape[1]
    matrix = torch.empty(even, even)
    first = folded[1 : half + 1].tril()
    second = folded[:half].triu()
    matrix[:half, :half] = first + first.tril(-1).T
    matrix[half:, half:] = second + second.triu(1).T
    matrix[half:, :half] = folded[half + 1 :]
    matrix[:half, half:] = folded[half + 1 :].T
    return matrix[:width, :width].contiguous()


def _pieces(loaded: LoadedModel, text: str, length: int) -> list[list[int]]:
    ids: list[int] = loaded.tokenizer(text).input_ids
    return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)] or [ids]


def _held_out_stride(sequences: Sequence[Sequence[int]]) -> int:
    """Every how manyth held-out token is kept, so that there are about HELD_OUT_TOKENS of them."""
    n_tokens = sum(len(ids) for ids in sequences[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    return max(1, n_tokens // HELD_OUT_TOKENS)
