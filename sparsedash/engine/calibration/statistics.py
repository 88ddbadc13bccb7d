"""Statistics of the projections' inputs over calibration text, collected block by block, and their
bytes in the store.

The input of an MLP's out-projection is its inner activations: these are what pruning channels
needs.

Dimensions: m inner width, n tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, islice

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
from sparsedash.storage.store import StageCheckpoint

BATCH_TOKENS = 2048
FEW_TOKENS_PER_CHANNEL = 20


@contextmanager
def reading_stored(what: str) -> Iterator[None]:
    """Raises CalibrationError where the bytes read inside are not of the expected form."""
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
    named = (
        tensors
        if isinstance(tensors, Mapping)
        else {str(number): own for number, own in enumerate(tensors)}
    )
    return bytes(
        safetensors.torch.save({name: own.contiguous().cpu() for name, own in named.items()})
    )


@contextmanager
def unpacked(data: bytes, what: str) -> Iterator[dict[str, Tensor]]:
    """The tensors that `pack_tensors` packed, by name. Raises CalibrationError on anything else,
    also from inside.
    """
    with reading_stored(what):
        yield safetensors.torch.load(data)


def unpack_tensors(data: bytes, what: str = "parts") -> list[Tensor]:
    """The tensors that `pack_tensors` packed, by number. Raises CalibrationError on anything
    else.
    """
    with unpacked(data, what) as tensors:
        return [tensors[str(number)] for number in range(len(tensors))]


def residual_weights(hidden: Tensor) -> Tensor:
    """Token weights of 1 / the mean square of the token's residual stream; only their ratios
    matter.

    A later norm divides by its root, so that an error there arrives, squared, that many times
    smaller; the first tokens of a passage, whose streams are enormous, decide nothing. hidden:
    (..., d). Returns (...) float32, positive.
    """
    return 1 / hidden.float().square().mean(dim=-1).clamp_min(1e-20)


TOKEN_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "equal": lambda hidden: hidden.new_ones(hidden.shape[:-1], dtype=torch.float32),
    "residual": residual_weights,
}
"""How much each token counts in the statistics, by its residual stream after a block. One row adds
a way.
"""


@dataclass(frozen=True)
class WalkCheckpoint:
    """Checkpoint of walks: all hidden states before a block. has: whether the store has the results
    of a block.
    """

    _checkpoint: StageCheckpoint
    _key: str
    _has: Callable[[int], bool]

    def resume(self, *walks: BlockWalk) -> int:
        """The next block: the first, or the one that interrupted walks had reached; `walks` are
        taken there.
        """
        entered = [own for walk in walks for own in walk.hidden]

        def unpack(data: bytes) -> tuple[int, list[Tensor]]:
            index, *hidden = unpack_tensors(data, "hidden states")
            with reading_stored("hidden states"):
                if [own.shape for own in hidden] != [own.shape for own in entered]:
                    raise ValueError("they are of other batches")
            return int(index), hidden

        index, hidden = self._checkpoint.get(self._key, unpack) or (0, [])
        if not index or not all(map(self._has, range(index))):
            return 0
        found = iter([own.to(first.device) for own, first in zip(hidden, entered, strict=True)])
        for walk in walks:
            walk.restart_from(list(islice(found, len(walk.hidden))))
        return index

    def reached(self, index: int, *walks: BlockWalk) -> None:
        """Keep the hidden states before the block with this index, from time to time."""
        # Packed now: until later all hidden states would be in memory twice.
        if self._checkpoint.is_due:
            hidden = [own for walk in walks for own in walk.hidden]
            self._checkpoint.keep({self._key: lambda: pack_tensors([torch.tensor(index), *hidden])})

    def done(self) -> None:
        """Drop the checkpoint: the result is in the store."""
        self._checkpoint.done()


def held_out(rows: Sequence[int]) -> Tensor:
    """Which sequences are kept out of every fit, (b, 1) bool. rows: their positions in the text."""
    return torch.tensor([[row % HELD_OUT_EVERY == HELD_OUT_EVERY - 1] for row in rows])


def split_held_out(
    sequences: Sequence[Sequence[int]],
) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """The sequences that are fitted, and those kept out of every fit."""
    apart = held_out(range(len(sequences))).flatten().tolist()
    fitted = [own for own, out in zip(sequences, apart, strict=True) if not out]
    return fitted, [own for own, out in zip(sequences, apart, strict=True) if out]


def beginnings(
    sequences: Sequence[Sequence[int]], n_tokens: int, length: int
) -> list[Sequence[int]]:
    """The first sequences, cut to this length so that there are many: n_tokens in all, but at least
    one.
    """
    short = [own[:length] for own in sequences]
    reached = accumulate(map(len, short))
    return [
        own for own, n_so_far in zip(short, reached, strict=True) if n_so_far <= n_tokens
    ] or short[:1]


def enough_tokens(loaded: LoadedModel, n_tokens: int) -> bool:
    """Whether there are enough tokens to estimate second moments."""
    return n_tokens >= MIN_TOKENS_PER_CHANNEL * max(mlp.width for mlp in loaded.mlps)


def few_tokens_warning(loaded: LoadedModel, n_tokens: int, *, solves: bool) -> str | None:
    """A warning of too few tokens for a stable fit; CalibrationError if far too few and a method
    `solves`.
    """
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
    """Lazy walk of a text through the dense model, no further than to the block that is asked for.

    Begins at the first block asked for, and again after an error. block: takes the text through the
    block with this index, with `step`. over: called after the last one. batches: with the positions
    of their sequences.
    """

    loaded: LoadedModel
    sequences: Callable[[], Sequence[Sequence[int]]]
    block: Callable[[int], None]
    checkpoint: WalkCheckpoint | None = None
    over: Callable[[], None] = lambda: None
    _walk: BlockWalk | None = None
    _n_done: int = 0
    batches: list[tuple[list[int], Batch]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def has_reached(self, index: int) -> bool:
        """Whether the text is on its way, and through this block."""
        return self._walk is not None and self._n_done > index

    def step(self, index: int) -> Iterator[SeenBatch]:
        """Run a block, yielding each batch."""
        assert self._walk is not None, "blocks are run inside `reach`"
        for number in self._walk.step(index):
            yield *self.batches[number], self._walk.hidden[number]

    @torch.no_grad()
    def reach(self, index: int) -> None:
        """Go through all blocks up to this one, where the text waits; so again for one block after
        another.
        """
        loaded = self.loaded
        try:
            if self._walk is None:
                sequences = self.sequences()
                self.lengths = list(map(len, sequences))
                self.batches = loaded.batches(sequences, BATCH_TOKENS)
                self._walk = loaded.walk([batch for _, batch in self.batches])
                self._n_done = self.checkpoint.resume(self._walk) if self.checkpoint else 0
            while self._n_done <= index:
                self.block(self._n_done)
                self._n_done += 1
                if self.checkpoint:
                    self.checkpoint.reached(self._n_done, self._walk)
            if self._n_done < len(loaded.blocks):
                # Something else is done in the meantime.
                self._walk.restart_from(
                    [loaded.residency.offload(own) for own in self._walk.hidden]
                )
                return
        except BaseException:
            # Some of the text may be further than the rest.
            self._walk = None
            raise
        self._walk, self.batches = None, []
        self.over()
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
    over: Callable[[], None] = lambda: None,
) -> LazyWalk:
    """A walk that collects statistics of the watched modules' inputs, one block's at a time in
    memory.

    Of covariances only the diagonal where tokens are few. Every HELD_OUT_EVERY-th sequence is held
    out. watched: modules of each block. keep: called with each block's statistics, in their order.
    checkpoint, over: see LazyWalk.
    """

    def report(done: int) -> None:
        on_step(Step("calibrate", done, len(watched) * len(walk.batches), unit="batches"))

    def through(index: int) -> Iterator[SeenBatch]:
        report(index * len(walk.batches))
        for number, seen in enumerate(walk.step(index), 1):
            yield seen
            report(index * len(walk.batches) + number)

    def block(index: int) -> None:
        keep(
            index,
            block_statistics(loaded, watched[index], through(index), walk.lengths, token_weights),
        )

    walk = LazyWalk(loaded, sequences, block, checkpoint, over)
    return walk


def block_statistics(
    loaded: LoadedModel,
    watched: Sequence[nn.Module],
    through: Iterator[SeenBatch],
    lengths: Sequence[int],
    token_weights: TokenWeights,
) -> list[Statistics]:
    """Statistics of the inputs that modules of one block are given while `through` takes the text
    through it.

    lengths: of all sequences, in tokens.
    """
    weigh, device = TOKEN_WEIGHTS[token_weights], loaded.model.device
    # About HELD_OUT_TOKENS held-out tokens are kept.
    share = HELD_OUT_TOKENS / max(
        HELD_OUT_TOKENS, sum(lengths[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    )
    whole = enough_tokens(loaded, sum(lengths))
    sums = [_RunningSums(device, share, whole=whole) for _ in watched]
    with capture_inputs(watched, [own.see for own in sums]):
        for rows, batch, hidden in through:
            real, kept_out, weights = batch.mask.bool(), held_out(rows).to(device), weigh(hidden)
            for own in sums:
                own.add(real & ~kept_out, real & kept_out, weights)
    loaded.residency.drop()
    return [own.statistics() for own in sums]


class _RunningSums:
    """Running sums over the tokens that one module is given. whole: of the covariance, or of its
    diagonal alone.

    Of activations less the mean of the first batch: squares of a large mean would leave no digit of
    a variance.
    share: of the held-out tokens that are kept.
    """

    def __init__(self, device: torch.device, share: float, *, whole: bool) -> None:
        self._device, self._whole = device, whole
        self._origin = self._moment = self._sum = torch.empty(0)
        self._held_out: list[tuple[Tensor, Tensor]] = []
        # Drawn: in step with the sequences, first tokens would be kept more often than others.
        self._share, self._draw = share, torch.Generator().manual_seed(0)
        self._n_tokens, self._total_weight = 0, 0.0

    def see(self, activations: Tensor) -> None:
        """Hold the module's next input until the block is through. activations: (b, t, m), or (b *
        t, m).
        """
        self._seen = activations

    def add(self, fitted: Tensor, held_out: Tensor, weights: Tensor) -> None:
        """Add what was seen. fitted, held_out: (b, t), the real tokens of either kind. weights: (b,
        t).
        """
        activations = self._seen.reshape(weights.numel(), -1)
        del self._seen
        if not len(self._sum):
            width = activations.shape[-1]
            self._moment = torch.zeros(
                (width, width) if self._whole else width, device=self._device
            )
            self._sum = torch.zeros(width, device=self._device)
        own = weights[fitted]
        # In place: what is picked is a copy already, and there may be gigabytes of it. Weights of
        # one cost nothing.
        roots = None if bool((own == 1).all()) else own.sqrt()[:, None]
        fit = _rows_at(activations, fitted).float()
        if len(fit) and not len(self._origin):
            self._origin = own @ fit / own.sum()
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
        self._total_weight += float(own.sum())
        kept = held_out.clone()
        kept[held_out] = (torch.rand(int(held_out.sum()), generator=self._draw) < self._share).to(
            kept.device
        )
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
        held_out, weights = (torch.cat(parts).cpu() for parts in zip(*self._held_out, strict=True))
        return Statistics(
            covariance=covariance.cpu(),
            mean=(self._origin + shift).cpu(),
            held_out=Sample(inputs=held_out, weights=weights),
            n_tokens=self._n_tokens,
        )


def _rows_at(rows: Tensor, chosen: Tensor) -> Tensor:
    """The rows (n, m) that are chosen, (b, t) bool: by their numbers, which is faster than by a
    mask.
    """
    return rows.index_select(0, chosen.flatten().nonzero().squeeze(1))


def pack_statistics(statistics: Statistics) -> bytes:
    """The statistics as safetensors bytes; of a symmetric matrix only the lower triangle, row after
    row.
    """
    covariance = statistics.covariance
    if statistics.is_whole:
        covariance = torch.from_numpy(
            np.concatenate([row[: i + 1] for i, row in enumerate(covariance.numpy())])
        )[None]
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
    """The statistics that `pack_statistics` packed. Raises CalibrationError on anything else."""
    with unpacked(data, "statistics") as tensors:
        covariance, mean = tensors["covariance"], tensors["mean"]
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
            held_out=Sample(inputs=tensors["held_out"], weights=tensors["held_out_weights"]),
            n_tokens=int(tensors["n_tokens"]),
        )


@torch.no_grad()
def shared_inputs(loaded: LoadedModel) -> list[list[list[str]]]:
    """Names of each block's projections that are called, grouped by the input tensor that they
    share.
    """
    blocks = loaded.projections("decoder")
    modules = [module for block in blocks for module in block.values()]
    # Kept until the end: the place of a tensor that is gone may be taken by another.
    seen: dict[nn.Module, Tensor] = {}
    with capture_inputs(modules, [partial(seen.__setitem__, module) for module in modules]):
        ids = torch.zeros(1, 2, dtype=torch.long, device=loaded.model.device)
        loaded.model.base_model(input_ids=ids, use_cache=False)
    found = []
    for block in blocks:
        groups: dict[tuple[int, torch.Size], list[str]] = {}
        for name, tensor in [
            (name, seen[module]) for name, module in block.items() if module in seen
        ]:
            groups.setdefault((tensor.data_ptr(), tensor.shape), []).append(name)
        found.append(list(groups.values()))
    return found
