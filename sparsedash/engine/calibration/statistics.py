"""Statistics of the projections' inputs over calibration text, block by block, and their bytes.

The input of an MLP's out-projection is its inner activations, which pruning channels needs.

Dimensions: m inner width, n tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain

import numpy as np
import safetensors.torch
import torch
from msgspec import DecodeError
from safetensors import SafetensorError
from torch import Tensor, nn

from sparsedash.catalog.resources import HELD_OUT_EVERY, HELD_OUT_TOKENS
from sparsedash.catalog.run_rules import require_calibration_tokens
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.layer import Sample, Statistics
from sparsedash.engine.pruning.linalg import add_second_moment_, mirror_lower_
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.settings import MIN_TOKENS_PER_CHANNEL, TokenWeights
from sparsedash.storage.checkpoint import StageCheckpoint

BATCH_TOKENS = 2048
FEW_TOKENS_PER_CHANNEL = 20


@contextmanager
def reading_stored(what: str) -> Iterator[None]:
    """Raises CalibrationError if the bytes read inside are not of the expected form."""
    try:
        yield
    except (
        SafetensorError,
        DecodeError,
        KeyError,
        IndexError,
        RuntimeError,
        ValueError,
        TypeError,
    ) as error:
        raise CalibrationError(
            f"Stored {what} cannot be read: {error}.", "Start the run again."
        ) from error


def pack_tensors(tensors: Sequence[Tensor] | Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes, by their names or by their numbers."""
    if not isinstance(tensors, Mapping):
        tensors = {str(number): tensor for number, tensor in enumerate(tensors)}
    contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    return bytes(safetensors.torch.save(contiguous))


@contextmanager
def unpacked(data: bytes, what: str) -> Iterator[dict[str, Tensor]]:
    """The tensors of `pack_tensors`, by name. Raises CalibrationError, also for errors inside."""
    with reading_stored(what):
        yield safetensors.torch.load(data)


def unpack_tensors(data: bytes, what: str = "parts") -> list[Tensor]:
    """The tensors of `pack_tensors`, by number. Raises CalibrationError on anything else."""
    with unpacked(data, what) as tensors:
        return [tensors[str(number)] for number in range(len(tensors))]


def residual_weights(hidden: Tensor) -> Tensor:
    """1 / the mean square of each token's residual stream (..., d): (...) float32, positive.

    Only ratios matter. A later norm divides by its root, so that an error there arrives, squared,
    that many times smaller; the first tokens of a passage, whose streams are enormous, decide
    nothing.
    """
    return 1 / hidden.float().square().mean(dim=-1).clamp_min(1e-20)


TOKEN_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "equal": lambda hidden: hidden.new_ones(hidden.shape[:-1], dtype=torch.float32),
    "residual": residual_weights,
}
"""Weight of each token in the statistics, from its residual stream after a block."""


@dataclass(frozen=True)
class WalkCheckpoint:
    """Checkpoint of walks: all hidden states before a block.

    has: whether the store has the results of a block.
    """

    _checkpoint: StageCheckpoint
    _key: str
    _has: Callable[[int], bool]

    def resume(self, *walks: BlockWalk) -> int:
        """The next block: the first, or the one that interrupted walks had reached.

        Takes `walks` there.
        """
        stored = self._checkpoint.get(
            self._key, partial(unpack_tensors, what="hidden states")
        )
        index = int(stored.pop(0)) if stored else 0
        if not stored or not all(map(self._has, range(index))):
            return 0
        for walk in walks:
            entered = walk.hidden
            walk.restart_from([stored.pop(0).to(hidden.device) for hidden in entered])
        return index

    def reached(self, index: int, *walks: BlockWalk) -> None:
        """Keep the hidden states before the block with this index, from time to time."""
        # Packed now: until later all hidden states would be in memory twice.
        if self._checkpoint.is_due:
            hidden = chain.from_iterable(walk.hidden for walk in walks)
            self._checkpoint.keep(
                {self._key: lambda: pack_tensors([torch.tensor(index), *hidden])}
            )

    def done(self) -> None:
        """Drop the checkpoint: the result is in the store."""
        self._checkpoint.done()


def held_out(rows: Sequence[int]) -> Tensor:
    """Which sequences are kept out of every fit, (b, 1) bool. rows: their positions in the text."""
    return torch.tensor([[_is_held_out(row)] for row in rows])


def _is_held_out(row: int) -> bool:
    return row % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def split_held_out(
    sequences: Sequence[Sequence[int]],
) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """The sequences that are fitted, and those kept out of every fit."""
    parts: tuple[list[Sequence[int]], list[Sequence[int]]] = ([], [])
    for row, sequence in enumerate(sequences):
        parts[_is_held_out(row)].append(sequence)
    return parts


def beginnings(
    sequences: Sequence[Sequence[int]], n_tokens: int, length: int
) -> list[Sequence[int]]:
    """The first sequences, cut to this length: up to n_tokens in all, but at least one."""
    short = [sequence[:length] for sequence in sequences]
    n_short = sum(total <= n_tokens for total in accumulate(map(len, short)))
    return short[: max(1, n_short)]


def enough_tokens(loaded: LoadedModel, n_tokens: int) -> bool:
    """True if there are enough tokens to estimate second moments."""
    return n_tokens >= MIN_TOKENS_PER_CHANNEL * max(mlp.width for mlp in loaded.mlps)


def few_tokens_warning(
    loaded: LoadedModel,
    n_tokens: int,
    *,
    solves: bool,
) -> str | None:
    """A warning of too few tokens for a stable fit; CalibrationError if a method `solves`."""
    width = max(mlp.width for mlp in loaded.mlps)
    if solves:
        require_calibration_tokens(n_tokens, [width])
    if not enough_tokens(loaded, n_tokens):
        return (
            f"{n_tokens:,} calibration tokens for {width:,} channels: enough to rank channels, too few to refit. Only "
            "held-out tokens, if there are any, measure the loss of the layers."
        )
    if n_tokens < FEW_TOKENS_PER_CHANNEL * width:
        stable = f"{FEW_TOKENS_PER_CHANNEL} or more give a more stable fit"
        return f"{n_tokens / width:.0f} calibration tokens per channel; {stable}."
    return None


SeenBatch = tuple[list[int], Batch, Tensor]
"""The positions of a batch's sequences in the text, the batch, and its hidden states (b, t, d)
after a block.
"""


@dataclass(eq=False)
class LazyWalk:
    """Walk of a text through the dense model, no further than to the requested block.

    Begins again after an error. block: takes the text through the block with this index, with
    `step`. on_end: called after the last one. batches: with the positions of their sequences.
    """

    loaded: LoadedModel
    sequences: Callable[[], Sequence[Sequence[int]]]
    block: Callable[[int], None]
    checkpoint: WalkCheckpoint | None = None
    on_end: Callable[[], None] = lambda: None
    _walk: BlockWalk | None = None
    _n_done: int = 0
    batches: list[tuple[list[int], Batch]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def has_reached(self, index: int) -> bool:
        """True if the text waits behind this block."""
        return self._walk is not None and self._n_done > index

    def step(self, index: int) -> Iterator[SeenBatch]:
        """Run a block, yielding each batch."""
        assert self._walk is not None, "blocks are run inside `reach`"
        for number in self._walk.step(index):
            yield *self.batches[number], self._walk.hidden[number]

    @torch.no_grad()
    def reach(self, index: int) -> None:
        """Go through the blocks up to this one; a later call goes on from there."""
        loaded = self.loaded
        try:
            if self._walk is None:
                sequences = self.sequences()
                self.lengths = list(map(len, sequences))
                self.batches = loaded.batches(sequences, BATCH_TOKENS)
                self._walk = loaded.walk([batch for _, batch in self.batches])
                self._n_done = (
                    self.checkpoint.resume(self._walk) if self.checkpoint else 0
                )
            while self._n_done <= index:
                self.block(self._n_done)
                self._n_done += 1
                if self.checkpoint:
                    self.checkpoint.reached(self._n_done, self._walk)
            if self._n_done < len(loaded.blocks):
                # Other work comes before the next block.
                hidden = [
                    loaded.residency.offload(states) for states in self._walk.hidden
                ]
                self._walk.restart_from(hidden)
                return
        except BaseException:
            # Some of the text may be further than the rest.
            self._walk = None
            raise
        self._walk = None
        self.batches = []
        self.on_end()
        if self.checkpoint:
            self.checkpoint.done()


def statistics_walk(
    loaded: LoadedModel,
    sequences: Callable[[], Sequence[Sequence[int]]],
    watched: Sequence[Sequence[nn.Module]],
    keep: Callable[[int, list[Statistics]], None],
    on_step: OnStep,
    *,
    token_weights: TokenWeights,
    checkpoint: WalkCheckpoint | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> LazyWalk:
    """A walk that collects statistics of the watched modules' inputs, a block at a time.

    Only the diagonals of covariances where tokens are few. Every HELD_OUT_EVERY-th sequence is held
    out. watched: modules of each block. keep: called with each block's statistics, in their order.
    checkpoint, on_end: see LazyWalk.
    """

    def report(done: int) -> None:
        on_step(
            Step("calibrate", done, len(watched) * len(walk.batches), unit="batches")
        )

    def through(index: int) -> Iterator[SeenBatch]:
        report(index * len(walk.batches))
        for number, seen in enumerate(walk.step(index), 1):
            yield seen
            report(index * len(walk.batches) + number)

    def block(index: int) -> None:
        lengths = walk.lengths
        statistics = block_statistics(
            loaded, watched[index], through(index), lengths, token_weights
        )
        keep(index, statistics)

    walk = LazyWalk(
        loaded,
        sequences,
        block,
        checkpoint,
        on_end,
    )
    return walk


def block_statistics(
    loaded: LoadedModel,
    watched: Sequence[nn.Module],
    through: Iterator[SeenBatch],
    lengths: Sequence[int],
    token_weights: TokenWeights,
) -> list[Statistics]:
    """Statistics of the inputs of modules of one block while `through` takes the text through it.

    lengths: of all sequences, in tokens.
    """
    weigh = TOKEN_WEIGHTS[token_weights]
    device = loaded.model.device
    # About HELD_OUT_TOKENS held-out tokens are kept.
    n_held_out = sum(lengths[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    share = HELD_OUT_TOKENS / max(HELD_OUT_TOKENS, n_held_out)
    whole = enough_tokens(loaded, sum(lengths))
    sums = [_RunningSums(device, share, whole=whole) for _ in watched]
    with capture_inputs(watched, [module_sums.see for module_sums in sums]):
        for rows, batch, hidden in through:
            real = batch.mask.bool()
            apart = held_out(rows).to(device)
            weights = weigh(hidden)
            for module_sums in sums:
                module_sums.add(real & ~apart, real & apart, weights)
    loaded.residency.drop()
    return [module_sums.statistics() for module_sums in sums]


class _RunningSums:
    """Running sums over the input tokens of one module.

    Of activations less the mean of the first batch: squares of a large mean would leave no digit of
    a variance. whole: of the covariance, or of its diagonal alone. share: of the held-out tokens
    that are kept.
    """

    def __init__(
        self,
        device: torch.device,
        share: float,
        *,
        whole: bool,
    ) -> None:
        self._device = device
        self._whole = whole
        self._origin = self._moment = self._sum = torch.empty(0)
        self._held_out: list[tuple[Tensor, Tensor]] = []
        # Drawn: in step with the sequences, first tokens would be kept more often than others.
        self._share = share
        self._random = torch.Generator().manual_seed(0)
        self._n_tokens = 0
        self._total_weight = 0.0

    def see(self, activations: Tensor) -> None:
        """Keep the module's next input for `add`. activations: (b, t, m), or (b * t, m)."""
        self._seen = activations

    def add(
        self,
        fitted: Tensor,
        held_out: Tensor,
        weights: Tensor,
    ) -> None:
        """Add the input seen last. fitted, held_out: (b, t), real tokens. weights: (b, t)."""
        activations = self._seen.reshape(weights.numel(), -1)
        del self._seen
        if not len(self._sum):
            width = activations.shape[-1]
            shape = (width, width) if self._whole else (width,)
            self._moment = torch.zeros(shape, device=self._device)
            self._sum = torch.zeros(width, device=self._device)
        fit_weights = weights[fitted]
        # In place: selected rows are a copy already, which may be gigabytes. Weights of one cost
        # nothing.
        roots = None if bool((fit_weights == 1).all()) else fit_weights.sqrt()[:, None]
        fit = _rows_at(activations, fitted).float()
        if len(fit) and not len(self._origin):
            self._origin = fit_weights @ fit / fit_weights.sum()
        if len(fit):
            fit.sub_(self._origin)
        if roots is not None:
            # The square root on either side of the second moment.
            fit.mul_(roots)
        if self._whole:
            add_second_moment_(self._moment, fit)
        else:
            self._moment += fit.square().sum(dim=0)
        self._sum += (fit if roots is None else fit.mul_(roots)).sum(dim=0)
        self._n_tokens += len(fit)
        self._total_weight += float(fit_weights.sum())
        drawn = torch.rand(int(held_out.sum()), generator=self._random) < self._share
        kept = held_out.clone()
        kept[held_out] = drawn.to(kept.device)
        self._held_out.append((_rows_at(activations, kept).float(), weights[kept]))

    def statistics(self) -> Statistics:
        covariance = mirror_lower_(self._moment) if self._whole else self._moment
        covariance.div_(self._total_weight)
        shift = self._sum / self._total_weight
        if self._whole:
            covariance.addr_(shift, shift, alpha=-1)
        else:
            covariance.sub_(shift.square())
        variances = covariance.diagonal() if self._whole else covariance
        variances.clamp_min_(0)
        sample = Sample(
            inputs=torch.cat([rows for rows, _ in self._held_out]).cpu(),
            weights=torch.cat([weights for _, weights in self._held_out]).cpu(),
        )
        return Statistics(
            covariance=covariance.cpu(),
            mean=(self._origin + shift).cpu(),
            held_out=sample,
            n_tokens=self._n_tokens,
        )


def _rows_at(rows: Tensor, chosen: Tensor) -> Tensor:
    """The rows (n, m) of a mask (b, t): by their numbers, which is faster than by the mask."""
    return rows.index_select(0, chosen.flatten().nonzero().squeeze(1))


def pack_statistics(statistics: Statistics) -> bytes:
    """The statistics as safetensors bytes; of a covariance the lower triangle, row after row."""
    covariance = statistics.covariance
    if statistics.is_whole:
        rows = [row[: i + 1] for i, row in enumerate(covariance.numpy())]
        covariance = torch.from_numpy(np.concatenate(rows))[None]
    return pack_tensors(
        {
            "covariance": covariance,
            "mean": statistics.mean,
            "held_out": statistics.held_out.inputs,
            "held_out_weights": statistics.held_out.weights,
            "n_tokens": torch.tensor(statistics.n_tokens),
        }
    )


def unpack_statistics(data: bytes) -> Statistics:
    """The statistics of `pack_statistics`. Raises CalibrationError on anything else."""
    with unpacked(data, "statistics") as tensors:
        covariance = tensors["covariance"]
        mean = tensors["mean"]
        if covariance.ndim == 2:
            lower = covariance[0].view(len(mean) * (len(mean) + 1) // 2).numpy()
            covariance = torch.empty(len(mean), len(mean))
            # Row after row in numpy: a fifth of the time that torch takes.
            for i, row in enumerate(covariance.numpy()):
                row[: i + 1] = lower[i * (i + 1) // 2 :][: i + 1]
            mirror_lower_(covariance)
        return Statistics(
            covariance=covariance,
            mean=mean,
            held_out=Sample(
                inputs=tensors["held_out"], weights=tensors["held_out_weights"]
            ),
            n_tokens=int(tensors["n_tokens"]),
        )


@torch.no_grad()
def shared_inputs(loaded: LoadedModel) -> list[list[list[str]]]:
    """Names of each block's called projections, grouped by the input tensor that they share."""
    blocks = loaded.projections("decoder")
    modules = list(chain.from_iterable(block.values() for block in blocks))
    # Kept until the end: another tensor may take the memory of one that is freed.
    inputs: dict[nn.Module, Tensor] = {}
    with capture_inputs(
        modules, [partial(inputs.__setitem__, module) for module in modules]
    ):
        ids = torch.zeros(
            1,
            2,
            dtype=torch.long,
            device=loaded.model.device,
        )
        loaded.model.base_model(input_ids=ids, use_cache=False)
    block_groups = []
    for block in blocks:
        groups: dict[tuple[int, torch.Size], list[str]] = {}
        for name, module in block.items():
            if module in inputs:
                tensor = inputs[module]
                groups.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
        block_groups.append(list(groups.values()))
    return block_groups
