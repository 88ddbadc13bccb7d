"""Statistics of the projections' inputs over calibration text, collected block by block.

The input of an MLP's out-projection is its inner activations: these are what pruning channels needs.

Dimensions: m inner width, n tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from random import Random

import torch
from torch import Tensor, nn

from sparsedash.catalog.engine_limits import HELD_OUT_EVERY, HELD_OUT_TOKENS
from sparsedash.engine.calibration.token_weights import TOKEN_WEIGHTS
from sparsedash.engine.calibration.walked import Walked
from sparsedash.engine.models.block_walk import BlockWalk, batches_by_length, capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.products import bfloat16_units
from sparsedash.engine.pruning.layer import Sample, Statistics
from sparsedash.engine.pruning.linalg import add_second_moment_, mirrored_
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.settings import MIN_TOKENS_PER_CHANNEL, CalibrationSettings, TokenWeights

BATCH_TOKENS = 2048
FEW_TOKENS_PER_CHANNEL = 20


def calibration_sequences(loaded: LoadedModel, texts: Texts, settings: CalibrationSettings) -> list[list[int]]:
    """Token ids of the calibration text: documents in an order drawn by the seed, at most n_samples * length tokens.

    A long document is cut to `length`, a short one stays short, so that each begins as evaluated passages begin;
    packed, what is chosen so is joined and cut again. A running text is joined first and cut into pieces of `length`.
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
    return _packed(chosen, length) if settings.packed else chosen


def first_tokens(sequences: Sequence[list[int]], n_tokens: int) -> list[list[int]]:
    """As many of the first sequences as hold n_tokens together; one at least."""
    chosen: list[list[int]] = []
    for ids in sequences:
        if chosen and sum(map(len, chosen)) + len(ids) > n_tokens:
            break
        chosen.append(ids)
    return chosen


def held_out(rows: Sequence[int]) -> Tensor:
    """Which sequences are kept out of every fit, (b, 1) bool. rows: their positions in the text."""
    return torch.tensor([[row % HELD_OUT_EVERY == HELD_OUT_EVERY - 1] for row in rows])


def enough_tokens(loaded: LoadedModel, n_tokens: int) -> bool:
    """Whether there are so many that second moments tell how channels go together."""
    return n_tokens >= MIN_TOKENS_PER_CHANNEL * max(mlp.width for mlp in loaded.mlps)


def few_tokens_warning(loaded: LoadedModel, n_tokens: int, *, solves: bool) -> str | None:
    """A warning when there are too few tokens to trust the fit. solves: whether a method looks at whole second moments.

    Raises CalibrationError when it does, and there are far too few for that.
    """
    width = max(mlp.width for mlp in loaded.mlps)
    if not enough_tokens(loaded, n_tokens):
        if solves:
            raise CalibrationError(
                f"{n_tokens:,} calibration tokens are too few for {width:,} channels; needed: {MIN_TOKENS_PER_CHANNEL} "
                f"a channel.",
                "Ask for more samples, longer ones, or a larger text set, or choose a method that refits nothing.",
            )
        return (
            f"Calibrated on {n_tokens:,} tokens for {width:,} channels: enough to rank channels one by one, not for a "
            f"refit. What the layers lose is known on held-out tokens only."
        )
    if n_tokens < FEW_TOKENS_PER_CHANNEL * width:
        return (
            f"Calibrated on {n_tokens / width:.0f} tokens a channel; from {FEW_TOKENS_PER_CHANNEL} on the fit is "
            f"steadier."
        )
    return None


def calibrate(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    keep: Callable[[int, Statistics], None],
    on_step: OnStep,
    *,
    token_weights: TokenWeights,
    walked: Walked | None = None,
) -> None:
    """Walk the text through the blocks and hand the statistics of each block's MLP to `keep`, in their order.

    walked: see `gather`.
    """

    def keep_only(index: int, found: list[Statistics]) -> None:
        keep(index, found[0])

    watched = [[mlp.out] for mlp in loaded.mlps]
    gather(loaded, sequences, watched, keep_only, on_step, token_weights=token_weights, walked=walked)


@torch.no_grad()
def gather(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    watched: Sequence[Sequence[nn.Module]],
    keep: Callable[[int, list[Statistics]], None],
    on_step: OnStep,
    *,
    token_weights: TokenWeights,
    walked: Walked | None = None,
) -> None:
    """Walk the text through the blocks and hand the statistics of the watched modules' inputs to `keep`, in order.

    watched: of each block, the modules. One block's statistics are in memory at a time; of second moments only the
    diagonal where there are too few tokens for more. Every HELD_OUT_EVERY-th sequence only serves the held-out sample.
    walked: where the hidden states are kept on the way, and those of a walk that was broken off, which is not begun
    again.
    """
    device = loaded.model.device
    pad = loaded.tokenizer.pad_token_id or 0
    batches = batches_by_length(sequences, BATCH_TOKENS, pad, device)
    walk = BlockWalk(loaded.model.base_model, loaded.blocks, [batch for _, batch in batches])
    held_out_stride, whole = _held_out_stride(sequences), enough_tokens(loaded, sum(map(len, sequences)))
    weigh = TOKEN_WEIGHTS[token_weights]
    n_steps = len(loaded.blocks) * len(batches)
    first = walked.resume(walk) if walked else 0
    on_step(Step("calibrate", first * len(batches), n_steps, unit="batches"))
    for index, modules in list(enumerate(watched))[first:]:
        gathered = [_Gathered(device, held_out_stride, whole=whole) for _ in modules]
        with capture_inputs(modules, [own.see for own in gathered]):
            for number in walk.step(index):
                rows, batch = batches[number]
                real, kept_out = batch.mask.bool(), held_out(rows).to(device)
                weights = weigh(walk.hidden[number])
                for own in gathered:
                    own.add(real & ~kept_out, real & kept_out, weights)
                done = index * len(batches) + number + 1
                on_step(Step("calibrate", done, n_steps, unit="batches"))
        loaded.residency.drop()
        keep(index, [own.statistics() for own in gathered])
        if walked:
            walked.reached(index + 1, walk.hidden)


class _Gathered:
    """Running sums over the tokens that one module is given. whole: of the second moment, or of its diagonal alone."""

    def __init__(self, device: torch.device, held_out_stride: int, *, whole: bool) -> None:
        self._device, self._whole = device, whole
        self._moment = self._sum = torch.empty(0)
        self._held_out: list[tuple[Tensor, Tensor]] = []
        self._stride = held_out_stride
        self._n_tokens, self._total_weight = 0, 0.0

    def see(self, activations: Tensor) -> None:
        """Hold the module's next input until the block is through. activations: (b, t, m), or (b * t, m)."""
        self._seen = activations

    def add(self, fitted: Tensor, held_out: Tensor, weights: Tensor) -> None:
        """Add what was seen. fitted, held_out: (b, t), the real tokens of either kind. weights: (b, t)."""
        activations = self._seen.reshape(weights.numel(), -1)
        del self._seen
        if not len(self._sum):
            width = activations.shape[-1]
            self._moment = torch.zeros((width, width) if self._whole else width, device=self._device)
            self._sum = torch.zeros(width, device=self._device)
        own = weights[fitted]
        # In place: what is picked is a copy already, and there may be gigabytes of it. Weights of one cost nothing.
        roots = None if bool((own == 1).all()) else own.sqrt()[:, None]
        fit = _picked(activations, fitted).float()
        if roots is not None:
            # The square root on either side of the second moment.
            fit.mul_(roots)
        if self._whole:
            # Numbers of bfloat16 that are not weighted stay such numbers.
            with bfloat16_units() if activations.dtype == torch.bfloat16 and roots is None else nullcontext():
                add_second_moment_(self._moment, fit)
        else:
            self._moment += fit.square().sum(dim=0)
        self._sum += (fit if roots is None else fit.mul_(roots)).sum(dim=0)
        self._n_tokens += len(fit)
        self._total_weight += float(own.sum())
        kept = _picked(activations, held_out)[:: self._stride].float()
        self._held_out.append((kept, weights[held_out][:: self._stride]))

    def statistics(self) -> Statistics:
        moment = mirrored_(self._moment) if self._whole else self._moment
        held_out, weights = (torch.cat(parts).cpu() for parts in zip(*self._held_out, strict=True))
        return Statistics(
            second_moment=moment.div_(self._total_weight).cpu(),
            mean=(self._sum / self._total_weight).cpu(),
            held_out=Sample(inputs=held_out, weights=weights),
            n_tokens=self._n_tokens,
        )


def _picked(rows: Tensor, chosen: Tensor) -> Tensor:
    """The rows (n, m) that are chosen, (b, t) bool: by their numbers, which is faster than by a mask."""
    return rows.index_select(0, chosen.flatten().nonzero().squeeze(1))


def _pieces(loaded: LoadedModel, text: str, length: int) -> list[list[int]]:
    ids: list[int] = loaded.tokenizer(text).input_ids
    return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)] or [ids]


def _packed(sequences: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """The same tokens in sequences of `length`; a shorter last one stays where it has something to predict."""
    ids = [token for own in sequences for token in own]
    pieces = [ids[i : i + length] for i in range(0, len(ids), length)]
    return [piece for piece in pieces if len(piece) >= 2]


def _held_out_stride(sequences: Sequence[Sequence[int]]) -> int:
    """Every how manyth held-out token is kept, so that there are about HELD_OUT_TOKENS of them."""
    n_tokens = sum(len(ids) for ids in sequences[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    return max(1, n_tokens // HELD_OUT_TOKENS)
