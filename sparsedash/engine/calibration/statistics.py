"""Statistics of the projections' inputs over calibration text, collected block by block.

The input of an MLP's out-projection is its inner activations: these are what pruning channels needs.

Dimensions: m inner width, n tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

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
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.settings import MIN_TOKENS_PER_CHANNEL, TokenWeights

BATCH_TOKENS = 2048
FEW_TOKENS_PER_CHANNEL = 20


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


def calibrating(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    keep: Callable[[int, Statistics], None],
    on_step: OnStep,
    *,
    token_weights: TokenWeights,
    walked: Walked | None = None,
) -> "Gathering":
    """The text before the first block, to gather statistics of each block's MLP for `keep`. walked: see Gathering."""

    def keep_only(index: int, found: list[Statistics]) -> None:
        keep(index, found[0])

    watched = [[mlp.out] for mlp in loaded.mlps]
    return Gathering(loaded, sequences, watched, keep_only, on_step, token_weights=token_weights, walked=walked)


class Gathering:
    """Text on its way through the blocks, which leaves the statistics of the watched modules' inputs in each of them.

    One block's statistics are in memory at a time; of second moments only the diagonal where there are too few tokens
    for more. Every HELD_OUT_EVERY-th sequence only serves the held-out sample. n_reached: blocks that it is through.
    """

    @torch.no_grad()
    def __init__(
        self,
        loaded: LoadedModel,
        sequences: Sequence[Sequence[int]],
        watched: Sequence[Sequence[nn.Module]],
        keep: Callable[[int, list[Statistics]], None],
        on_step: OnStep,
        *,
        token_weights: TokenWeights,
        walked: Walked | None = None,
    ) -> None:
        """watched: of each block, the modules. keep: given each block's statistics, in their order.

        walked: where the hidden states are kept on the way, and those of a walk that was broken off, which is not begun
        again.
        """
        self._loaded, self._watched, self._keep, self._on_step = loaded, watched, keep, on_step
        pad = loaded.tokenizer.pad_token_id or 0
        self._batches = batches_by_length(sequences, BATCH_TOKENS, pad, loaded.model.device)
        self._walk = BlockWalk(loaded.model.base_model, loaded.blocks, [batch for _, batch in self._batches])
        self._held_out_stride = _held_out_stride(sequences)
        self._whole = enough_tokens(loaded, sum(map(len, sequences)))
        self._weigh = TOKEN_WEIGHTS[token_weights]
        self._walked = walked
        self.n_reached = walked.resume(self._walk) if walked else 0

    @property
    def is_over(self) -> bool:
        """Whether the text is through all blocks."""
        return self.n_reached == len(self._watched)

    @torch.no_grad()
    def reach(self, index: int) -> None:
        """Go on until the text is through this block; there it is put aside. Of no more use where that raises: it may
        be in between.
        """
        self._tell(self.n_reached * len(self._batches))
        while self.n_reached <= index:
            self._block(self.n_reached)
            self.n_reached += 1
            if self._walked:
                self._walked.reached(self.n_reached, self._walk.hidden)
        if not self.is_over:
            # Something else is done in the meantime.
            self._walk.go_back([self._loaded.residency.hold(own) for own in self._walk.hidden])

    def _block(self, index: int) -> None:
        modules, device = self._watched[index], self._loaded.model.device
        gathered = [_Gathered(device, self._held_out_stride, whole=self._whole) for _ in modules]
        with capture_inputs(modules, [own.see for own in gathered]):
            for number in self._walk.step(index):
                rows, batch = self._batches[number]
                real, kept_out = batch.mask.bool(), held_out(rows).to(device)
                weights = self._weigh(self._walk.hidden[number])
                for own in gathered:
                    own.add(real & ~kept_out, real & kept_out, weights)
                self._tell(index * len(self._batches) + number + 1)
        self._loaded.residency.drop()
        self._keep(index, [own.statistics() for own in gathered])

    def _tell(self, done: int) -> None:
        self._on_step(Step("calibrate", done, len(self._watched) * len(self._batches), unit="batches"))


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


def _held_out_stride(sequences: Sequence[Sequence[int]]) -> int:
    """Every how manyth held-out token is kept, so that there are about HELD_OUT_TOKENS of them."""
    n_tokens = sum(len(ids) for ids in sequences[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    return max(1, n_tokens // HELD_OUT_TOKENS)
