"""Statistics of the projections' inputs over calibration text, collected block by block, and their bytes in the store.

The input of an MLP's out-projection is its inner activations: these are what pruning channels needs.

Dimensions: m inner width, n tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sparsedash.catalog.engine_limits import HELD_OUT_EVERY, HELD_OUT_TOKENS
from sparsedash.engine.models.decoder_blocks import BlockWalk, batches_by_length, capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.matmul import bfloat16_units
from sparsedash.engine.pruning.allocation import ChannelScores
from sparsedash.engine.pruning.layer import Sample, Statistics
from sparsedash.engine.pruning.linalg import add_second_moment_, mirror_lower_, row_slices
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.settings import MIN_TOKENS_PER_CHANNEL, TokenWeights
from sparsedash.storage.store import StageCheckpoint


def equal_weights(hidden: Tensor) -> Tensor:
    """Every token as much as every other."""
    return hidden.new_ones(hidden.shape[:-1], dtype=torch.float32)


def residual_weights(hidden: Tensor) -> Tensor:
    """1 / the mean square of a token's residual stream.

    A later norm divides by its root, so that an error there arrives, squared, that many times smaller; the first tokens
    of a passage, whose streams are enormous, decide nothing.
    """
    return 1 / hidden.float().square().mean(dim=-1).clamp_min(1e-20)


TOKEN_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {"equal": equal_weights, "residual": residual_weights}


_BLOCK = "block"


class WalkCheckpoint:
    """The hidden states before one block, of every batch of one walk, or of several side by side.

    halfway, key: where they are kept. has: whether the store has what the walk leaves of a block.
    """

    def __init__(self, halfway: StageCheckpoint, key: str, has: Callable[[int], bool]) -> None:
        self._halfway, self._key, self._has = halfway, key, has

    def resume(self, *walks: BlockWalk) -> int:
        """The block that is next: the first, or the one to which broken off walks had come; `walks` are taken there."""
        entered = [own for walk in walks for own in walk.hidden]
        index, hidden = self._halfway.get(self._key, partial(_unpack_hidden, [own.shape for own in entered])) or (0, [])
        if not index or not all(map(self._has, range(index))):
            return 0
        found = iter(own.to(first.device) for own, first in zip(hidden, entered, strict=True))
        for walk in walks:
            walk.go_back(list(islice(found, len(walk.hidden))))
        return index

    def reached(self, index: int, hidden: Sequence[Tensor]) -> None:
        """Keep what is before the block with this index, of all walks one after another, from time to time."""

        def packed() -> bytes:
            named = {str(number): own.contiguous().cpu() for number, own in enumerate(hidden)}
            return bytes(safetensors.torch.save(named | {_BLOCK: torch.tensor(index)}))

        # Not asked for later: until then all hidden states would be in memory twice.
        if self._halfway.is_due:
            self._halfway.keep(self._key, packed)


def _unpack_hidden(shapes: Sequence[torch.Size], data: bytes) -> tuple[int, list[Tensor]]:
    """The block and the hidden states. shapes: of what they take the place of."""
    try:
        tensors = safetensors.torch.load(data)
        index = int(tensors.pop(_BLOCK))
        hidden = [tensors[str(number)] for number in range(len(tensors))]
    except (safetensors.SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise CalibrationError(f"Stored hidden states cannot be read: {error}.", "Start the run again.") from error
    if index < 0 or [own.shape for own in hidden] != list(shapes):
        raise CalibrationError("Stored hidden states are of other batches.", "Start the run again.")
    return index, hidden


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


def mlp_statistics_collector(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    keep: Callable[[int, Statistics], None],
    on_step: OnStep,
    *,
    token_weights: TokenWeights,
    walked: WalkCheckpoint | None = None,
) -> "StatisticsCollector":
    """The text before the first block, to gather statistics of each block's MLP for `keep`. walked: see Gathering."""

    def keep_only(index: int, found: list[Statistics]) -> None:
        keep(index, found[0])

    watched = [[mlp.out] for mlp in loaded.mlps]
    return StatisticsCollector(
        loaded, sequences, watched, keep_only, on_step, token_weights=token_weights, walked=walked
    )


class StatisticsCollector:
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
        walked: WalkCheckpoint | None = None,
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
        gathered = [_RunningSums(device, self._held_out_stride, whole=self._whole) for _ in modules]
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


class _RunningSums:
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
        fit = _rows_at(activations, fitted).float()
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
        kept = _rows_at(activations, held_out)[:: self._stride].float()
        self._held_out.append((kept, weights[held_out][:: self._stride]))

    def statistics(self) -> Statistics:
        moment = mirror_lower_(self._moment) if self._whole else self._moment
        held_out, weights = (torch.cat(parts).cpu() for parts in zip(*self._held_out, strict=True))
        return Statistics(
            second_moment=moment.div_(self._total_weight).cpu(),
            mean=(self._sum / self._total_weight).cpu(),
            held_out=Sample(inputs=held_out, weights=weights),
            n_tokens=self._n_tokens,
        )


def _rows_at(rows: Tensor, chosen: Tensor) -> Tensor:
    """The rows (n, m) that are chosen, (b, t) bool: by their numbers, which is faster than by a mask."""
    return rows.index_select(0, chosen.flatten().nonzero().squeeze(1))


def _held_out_stride(sequences: Sequence[Sequence[int]]) -> int:
    """Every how manyth held-out token is kept, so that there are about HELD_OUT_TOKENS of them."""
    n_tokens = sum(len(ids) for ids in sequences[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    return max(1, n_tokens // HELD_OUT_TOKENS)


def pack_statistics(statistics: Statistics) -> bytes:
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


def unpack_statistics(data: bytes) -> Statistics:
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
    for rows in row_slices(half):
        folded[rows] += matrix[half:, half:][rows].triu(rows.start)
    return folded


def _unfold(folded: Tensor, width: int) -> Tensor:
    even, half = folded.shape[0] - 1, folded.shape[1]
    matrix = torch.empty(even, even)
    matrix[half:, :half] = folded[half + 1 :]
    matrix[:half, half:] = folded[half + 1 :].T
    for square, lower in ((matrix[:half, :half], folded[1 : half + 1]), (matrix[half:, half:], folded[:half].T)):
        mirror_lower_(square.copy_(lower))
    return matrix[:width, :width].contiguous()


class LazyCollector:
    """One text's way through the blocks, begun when a block is first asked for, and again after it was broken off.

    begin: the text before the first block. over: called when it is through the last one.
    """

    def __init__(self, begin: Callable[[], StatisticsCollector], over: Callable[[], None]) -> None:
        self._begin, self._over = begin, over
        self._gathering: StatisticsCollector | None = None

    def has_reached(self, index: int) -> bool:
        """Whether the text is on its way, and through this block."""
        return self._gathering is not None and self._gathering.n_reached > index

    def reach(self, index: int) -> None:
        """Go on until the text is through this block."""
        try:
            gathering = self._gathering = self._gathering or self._begin()
            gathering.reach(index)
        except BaseException:
            # Some of the text may be further than the rest.
            self._gathering = None
            raise
        if gathering.is_over:
            self._gathering = None
            self._over()


@torch.no_grad()
def shared_inputs(loaded: LoadedModel) -> list[list[list[str]]]:
    """The names of each block's projections, grouped by the input tensor that they share.

    Seen on two tokens. One that is never called is not among them.
    """
    blocks = loaded.projections("decoder")
    modules = [module for block in blocks for module in block.values()]
    # Kept until the end: the place of a tensor that is gone may be taken by another.
    seen: dict[int, Tensor] = {}
    sinks = [lambda x, m=module: seen.update({id(m): x}) for module in modules]
    with capture_inputs(modules, sinks):
        ids = torch.zeros(1, 2, dtype=torch.long, device=loaded.model.device)
        loaded.model.base_model(input_ids=ids, use_cache=False)
    found = []
    for block in blocks:
        groups: dict[tuple[int, torch.Size], list[str]] = {}
        for name, module in block.items():
            if id(module) in seen:
                tensor = seen[id(module)]
                groups.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
        found.append(list(groups.values()))
    return found
