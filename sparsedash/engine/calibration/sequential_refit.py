"""Sequential least squares on the sparse model's activations, aimed at the dense residual stream.

The loss of earlier blocks arrives at a block as a shift of the residual stream; each block makes up
for a share of it as well as its own loss. Where later layers are removed, it aims at the stream
after them. Dimensions: d hidden width, m inner width, k kept channels; b, t of one batch.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import linear

from sparsedash.engine.calibration.statistics import (
    WalkCheckpoint,
    held_out,
    residual_weights,
)
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, capture_inputs
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.linalg import (
    add_second_moment_,
    complement,
    damped_solution,
    mirror_lower_,
    submatrix,
)
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight, pruned
from sparsedash.schema.progress import OnStep, Step

BATCH_TOKENS = 4096


@torch.no_grad()
def refit_sequentially(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    kept: Sequence[Tensor],
    damping: float,
    strength: float,
    on_step: OnStep,
    checkpoint: WalkCheckpoint | None = None,
    removed_layers: Collection[int] = (),
) -> Iterator[tuple[int, PrunedMlp]]:
    """Index and refit of each block, from the block that an interrupted refit had reached.

    kept: channels (k,) of each MLP, ascending; empty where the whole layer is removed, or has no
    MLP. strength: 0
    aims at the block's own dense output on the sparse model's activations, 1 at the dense residual
    stream. Where a block does not add the MLP's output as it is (a norm or a factor stands
    between), it is 0: a shift of the stream is then no shift of the output. Two forward passes over
    the text: of the dense model and the sparse one, or there of the sparse one before and after
    each refit. Held-out sequences are not fitted.
    """
    mlps = loaded.mlps
    if not any(mlp.width for mlp in mlps):
        for index, mlp in enumerate(mlps):
            yield index, _without_channels(mlp)
        return
    numbered = loaded.batches(sequences, BATCH_TOKENS)
    first_batch = numbered[0][1]
    adds, normed = _joins(loaded, first_batch)
    if not adds and all(
        len(kept[index]) in (0, mlp.width) for index, mlp in enumerate(mlps)
    ):
        yield from _left_alone(loaded, kept)
        return
    streams = _Streams(loaded, numbered, removed_layers, on_step, adds=adds)
    first = checkpoint.resume(*streams.walks) if checkpoint else 0
    streams.start_at(first)
    for index in range(first, len(mlps)):
        mlp = mlps[index]
        if index in removed_layers:
            yield index, _without_channels(mlp)
            continue
        streams.step_dense(index)
        if mlp.width:
            sums = _Sums(mlp, normed=normed)
            streams.gather(index, sums)
            refit = sums.refit(kept[index], damping, strength)
            refit = refit.moved_to(loaded.residency.offload)
            yield index, refit
            streams.step_refitted(index, refit)
        else:
            streams.step_sparse(index)
            yield index, _without_channels(mlp)
        if checkpoint:
            checkpoint.reached(index + 1, *streams.walks)


def _left_alone(
    loaded: LoadedModel, kept: Sequence[Tensor]
) -> Iterator[tuple[int, PrunedMlp]]:
    """Every MLP with its own weights: there is nothing to make up for but the loss of earlier
    blocks.
    """
    for index, mlp in enumerate(loaded.mlps):
        unchanged = _without_channels(mlp)
        if len(kept[index]):
            weight, _ = _dense(mlp)
            unchanged = PrunedMlp(kept[index], weight, lost=0.0).moved_to(
                loaded.residency.offload
            )
        loaded.residency.drop()
        yield index, unchanged


class _Streams:
    """The residual streams of a text before a block: the sparse model's and, where MLPs add to it as
    they are, the dense one's, which goes ahead through removed layers.

    numbered: batches with the rows of the text that they hold.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        numbered: Sequence[tuple[list[int], Batch]],
        removed_layers: Collection[int],
        on_step: OnStep,
        *,
        adds: bool,
    ) -> None:
        self._mlps = loaded.mlps
        self._removed_layers = removed_layers
        self._on_step = on_step
        batches = [batch for _, batch in numbered]
        self._n_batches = len(batches)
        self._sparse = loaded.walk(batches)
        self._dense = loaded.walk(batches) if adds else None
        device = loaded.model.device
        self._fitted = [
            batch.mask.bool() & ~held_out(rows).to(device) for rows, batch in numbered
        ]
        self._inputs: list[Tensor] = []
        self._n_dense = 0
        self._n_done = count()

    @property
    def walks(self) -> list[BlockWalk]:
        """The walks of both streams."""
        return [self._sparse, self._dense] if self._dense else [self._sparse]

    def start_at(self, first: int) -> None:
        """Count from this block on, which an interrupted refit had reached."""
        self._n_dense = self._next_kept(first) if first else 0
        self._n_done = count(2 * first * self._n_batches)
        self._report()

    def _next_kept(self, index: int) -> int:
        """The first layer from this one on that is not removed; after the last one their number."""
        while index in self._removed_layers:
            index += 1
        return min(index, len(self._mlps))

    def _report(self) -> None:
        n_steps = 2 * len(self._mlps) * self._n_batches
        self._on_step(Step("prune", next(self._n_done), n_steps, unit="batches"))

    def step_dense(self, index: int) -> None:
        """Take the dense stream through this block and removed ones behind it."""
        if self._dense is None:
            return
        while self._n_dense < self._next_kept(index + 1):
            for _ in self._dense.step(self._n_dense):
                self._report()
            self._n_dense += 1

    def step_sparse(self, index: int) -> None:
        """Take the sparse stream through a block."""
        for _ in self._sparse.step(index):
            self._report()

    def gather(self, index: int, sums: "_Sums") -> None:
        """Add what a block's refit is solved from, on the sparse stream with the block as it is.

        The stream is behind the block then where its MLP adds to it, before it elsewhere.
        """
        before = [] if self._dense else self._sparse.hidden
        self._inputs = []
        with capture_inputs([self._mlps[index].out], [self._inputs.append]):
            for number in self._sparse.step(index):
                tokens = self._fitted[number]
                inputs = self._inputs[-1].reshape(*tokens.shape, -1)
                self._inputs[-1] = inputs
                aim = self._dense.hidden[number][tokens] if self._dense else None
                sums.add(inputs[tokens], self._sparse.hidden[number][tokens], aim)
                if self._dense is None:
                    self._inputs.clear()
                self._report()
        if self._dense is None:
            self._sparse.restart_from(before)

    def step_refitted(self, index: int, refit: PrunedMlp) -> None:
        """Take the sparse stream through a block with this MLP."""
        mlp = self._mlps[index]
        if self._dense is None:
            with pruned([mlp], [refit]):
                self.step_sparse(index)
            return
        # The stream differs by the change of the MLP's output.
        weight, bias = (part.to(self._inputs[0]) for part in refit.change(*_dense(mlp)))
        changed = []
        for states in self._sparse.hidden:
            changed.append(states.add_(linear(self._inputs.pop(0), weight, bias)))
        self._sparse.restart_from(changed)


def _joins(loaded: LoadedModel, batch: Batch) -> tuple[bool, bool]:
    """How a block's MLP reaches the residual stream, tried on a few tokens of the first that has
    one.

    Whether its output is added as it is, and whether a norm takes away its size (Gemma 2 and 3,
    OLMo 2).
    """
    walk = loaded.walk([Batch(batch.ids[:1, :4], batch.mask[:1, :4])])
    mlps = loaded.mlps
    first = next(index for index, mlp in enumerate(mlps) if mlp.width)
    for index in range(first):
        list(walk.step(index))
    before = walk.hidden

    def stream(factor: float, shift: float = 0.0) -> Tensor:
        walk.restart_from(before)
        out = mlps[first].out
        with out.register_forward_hook(
            lambda _, inputs, output: factor * output + shift
        ):
            list(walk.step(first))
        return walk.hidden[0]

    usual = stream(1)
    without = stream(0)
    doubled = stream(2)
    shift = float(usual.abs().max())
    moved = (stream(1, shift) - usual) / shift
    # Doubled it moves the stream as far as it did at all; normed, by rounding alone.
    normed = bool((doubled - usual).abs().max() < 0.1 * (usual - without).abs().max())
    return torch.allclose(moved, torch.ones_like(moved), atol=0.05), normed


class _Sums:
    """Sums over the tokens of one block that its refit is solved from.

    Each token is weighted by 1 / the mean square of its stream, the dense one where that is the
    aim, whatever the calibration says: an enormous token's shift would outweigh all others. normed:
    by that of the MLP's output, since the norm behind leaves its direction alone.
    """

    def __init__(self, mlp: Mlp, *, normed: bool) -> None:
        self._mlp = mlp
        self._normed = normed
        weight = out_weight(mlp)
        d, m = weight.shape
        self._moment = weight.new_zeros(m, m).float()
        self._shift = weight.new_zeros(d, m).float()
        self._mean_input = weight.new_zeros(m).float()
        self._mean_shift = weight.new_zeros(d).float()
        self._total = 0.0

    def add(
        self,
        inputs: Tensor,
        hidden: Tensor,
        aim: Tensor | None,
    ) -> None:
        """inputs: (n, m). hidden, aim: (n, d), the sparse and the dense stream after the block."""
        # In the model's own type, whose rounding is far below what so few tokens tell.
        stream = hidden if aim is None else aim
        scale = linear(inputs, out_weight(self._mlp)) if self._normed else stream
        roots = residual_weights(scale).sqrt()[:, None].to(inputs.dtype)
        weighted = (inputs * roots).float()
        wide_roots = roots.float()
        add_second_moment_(self._moment, weighted)
        self._mean_input += (weighted.T @ wide_roots)[:, 0]
        if aim is not None:
            shift = ((aim - hidden) * roots).float()
            self._shift.addmm_(shift.T, weighted)
            self._mean_shift += (shift.T @ wide_roots)[:, 0]
        self._total += float(wide_roots.square().sum())

    def refit(
        self,
        kept: Tensor,
        damping: float,
        strength: float,
    ) -> PrunedMlp:
        """The MLP with the best out-projection; one that keeps everything is refitted as well."""
        moment = mirror_lower_(self._moment).div_(self._total).cpu()
        shift = (strength * self._shift / self._total).cpu()
        weight, bias = _dense(self._mlp)
        if bias is None:
            return PrunedMlp(kept, _solve_kept(moment, weight, kept, damping, shift))
        mean = (self._mean_input / self._total).cpu()
        mean_shift = (strength * self._mean_shift / self._total).cpu()
        moment.addr_(mean, mean, alpha=-1)
        shift.addr_(mean_shift, mean, alpha=-1)
        fitted = _solve_kept(
            moment,
            weight,
            kept,
            damping,
            shift,
        )
        means = mean_shift + weight @ mean - fitted @ mean[kept]
        return PrunedMlp(kept, fitted, bias + means)


def _without_channels(mlp: Mlp) -> PrunedMlp:
    return PrunedMlp(torch.arange(0), torch.zeros(len(out_weight(mlp)), 0))


def _dense(mlp: Mlp) -> tuple[Tensor, Tensor | None]:
    """Copies of the out-projection (d, m) and its bias."""
    weight = out_weight(mlp).to("cpu", torch.float32, copy=True)
    return weight, None if mlp.out.bias is None else mlp.out.bias.float().cpu()


def _solve_kept(
    moment: Tensor, weight: Tensor, kept: Tensor, damping: float, shift: Tensor
) -> Tensor:
    """The kept columns (d, k) that make up for the others and move the output by y.

    shift: (d, m), the mean of y x^T.
    """
    gone = complement(kept, moment.shape[0])
    cross = submatrix(moment, kept, gone) @ weight[:, gone].T + shift[:, kept].T
    change, _ = damped_solution(
        lambda rows: submatrix(moment, kept[rows], kept),
        cross,
        damping,
    )
    return weight[:, kept] + change.T
