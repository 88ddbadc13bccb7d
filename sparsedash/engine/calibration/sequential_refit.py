"""Sequential least squares on the sparse model's own activations, aimed at the dense residual
stream.

What the blocks before have lost arrives at a block as a shift of the residual stream; each block
makes up for a share of it as well as its own loss. Where layers behind it are gone, it aims at the
stream after them. Dimensions: d hidden width, m inner width, k kept channels; b, t of one batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import linear

from sparsedash.engine.calibration.statistics import WalkCheckpoint, held_out, residual_weights
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
) -> Iterator[tuple[int, PrunedMlp]]:
    """The MLPs with these channels and refitted out-projections, which make up for what earlier
    blocks lost as well.

    Yields each block's index and refit, from the block on that the checkpoint of an interrupted
    refit has reached.

    kept: (k,) of each MLP, ascending; empty where the whole layer is gone.
    strength: 0 aims at the block's own dense output on the sparse model's activations, 1 at the
    dense residual stream. Where a block does not add the MLP's output as it is (a norm or a factor
    stands between), it is 0: a shift of the stream is then no shift of the output. Two forward
    passes over the text: of the dense model and the sparse one, or there of the sparse one before
    and after each refit. Held-out sequences are not fitted.
    """
    device, numbered = loaded.model.device, loaded.batches(sequences, BATCH_TOKENS)
    batches = [batch for _, batch in numbered]
    adds, normed = _joins(loaded, batches[0])
    if not adds and all(
        len(own) in (0, mlp.width) for own, mlp in zip(kept, loaded.mlps, strict=True)
    ):
        # Nothing to make up for but what the blocks before have lost.
        for index, (own, mlp) in enumerate(zip(kept, loaded.mlps, strict=True)):
            whole = (
                PrunedMlp(own, _dense(mlp)[0], lost=0.0).moved_to(loaded.residency.offload)
                if len(own)
                else _gone(mlp)
            )
            loaded.residency.drop()
            yield index, whole
        return
    walks = [loaded.walk(batches) for _ in range(1 + adds)]
    sparse, dense = walks[0], walks[1] if adds else None
    first = checkpoint.resume(*walks) if checkpoint else 0
    steps = count(2 * first * len(batches))

    def report() -> None:
        on_step(Step("prune", next(steps), 2 * len(loaded.blocks) * len(batches), unit="batches"))

    report()
    fitted = [batch.mask.bool() & ~held_out(rows).to(device) for rows, batch in numbered]
    pair = _Pair(dense, sparse, fitted, normed, report)
    # Of the dense model, which goes ahead through layers that are gone; an interrupted one had done
    # so.
    n_through = 0 if first == 0 else _next_kept(kept, first)
    for index, (mlp, own) in list(enumerate(zip(loaded.mlps, kept, strict=True)))[first:]:
        if not len(own):
            yield index, _gone(mlp)
            continue
        while dense and n_through < _next_kept(kept, index + 1):
            for _ in dense.step(n_through):
                report()
            n_through += 1
        before = [] if adds else sparse.hidden
        sums, inputs = pair.collect(index, mlp, keep=adds)
        refitted = sums.refit(own, damping, strength).moved_to(loaded.residency.offload)
        yield index, refitted
        if adds:
            pair.add_change(mlp, refitted, inputs)
        else:
            pair.run_again(index, mlp, refitted, before)
        if checkpoint:
            checkpoint.reached(index + 1, *walks)


@dataclass(eq=False)
class _Pair:
    """The sparse model and, where it aims at that, the dense one, through which the text goes in
    step.

    fitted: (b, t) bool of each batch, the tokens that are fitted. normed: whether a norm stands
    between an MLP's output and the stream. report: called after each batch.
    """

    dense: BlockWalk | None
    sparse: BlockWalk
    fitted: list[Tensor]
    normed: bool
    report: Callable[[], None]

    def collect(self, index: int, mlp: Mlp, *, keep: bool) -> tuple["_Sums", list[Tensor]]:
        """Run the sparse model's block with its dense MLP: the sums of its refit, and what the
        out-projection is given in each batch (b, t, m), where kept.
        """
        sums, inputs = _Sums(mlp, normed=self.normed), list[Tensor]()
        with capture_inputs([mlp.out], [inputs.append]):
            for number in self.sparse.step(index):
                tokens = self.fitted[number]
                inputs[-1] = inputs[-1].reshape(*tokens.shape, -1)
                aim = self.dense.hidden[number][tokens] if self.dense else None
                sums.add(inputs[-1][tokens], self.sparse.hidden[number][tokens], aim)
                if not keep:
                    inputs.clear()
                self.report()
        return sums, inputs

    def add_change(self, mlp: Mlp, refitted: PrunedMlp, inputs: list[Tensor]) -> None:
        """Take the sparse model to where its refit leads: the difference to the dense MLP is added.
        Empties inputs.
        """
        change = [own.to(inputs[0]) for own in refitted.change(*_dense(mlp))]
        self.sparse.restart_from(
            [hidden.add_(linear(inputs.pop(0), *change)) for hidden in self.sparse.hidden]
        )

    def run_again(self, index: int, mlp: Mlp, refitted: PrunedMlp, before: list[Tensor]) -> None:
        """The same, by running the block with its refit from these hidden states."""
        self.sparse.restart_from(before)
        with pruned([mlp], [refitted]):
            for _ in self.sparse.step(index):
                self.report()


def _next_kept(kept: Sequence[Tensor], index: int) -> int:
    """The first layer from this one on that is not gone; behind the last one their number."""
    return next((place for place in range(index, len(kept)) if len(kept[place])), len(kept))


def _joins(loaded: LoadedModel, batch: Batch) -> tuple[bool, bool]:
    """How a block's MLP reaches the residual stream, seen on a few tokens of the first one: whether
    its output is added as it is, and whether a norm takes away how large it is (Gemma 2 and 3, OLMo
    2).
    """
    few = Batch(batch.ids[:1, :4], batch.mask[:1, :4])
    walk = loaded.walk([few])
    before = walk.hidden

    def stream(times: float, shift: float = 0.0) -> Tensor:
        walk.restart_from(before)
        with loaded.mlps[0].out.register_forward_hook(
            lambda module, inputs, output: times * output + shift
        ):
            list(walk.step(0))
        return walk.hidden[0]

    usual, none, twice = map(stream, (1, 0, 2))
    shift = float(usual.abs().max())
    moved = (stream(1, shift) - usual) / shift
    # Doubled it moves the stream as far as it did at all; normed, by rounding alone.
    normed = bool((twice - usual).abs().max() < 0.1 * (usual - none).abs().max())
    return torch.allclose(moved, torch.ones_like(moved), atol=0.05), normed


class _Sums:
    """Sums over the tokens of one block that its refit is solved from.

    Each token is weighted by 1 / the mean square of its stream, the dense one where that is the
    aim, whatever the calibration says: an enormous token's shift would outweigh all others. normed:
    by that of the MLP's output, since of it the norm behind leaves the direction alone.
    """

    def __init__(self, mlp: Mlp, *, normed: bool) -> None:
        self._mlp, self._normed = mlp, normed
        weight = out_weight(mlp)
        d, m = weight.shape
        self._moment, self._shift = weight.new_zeros(m, m).float(), weight.new_zeros(d, m).float()
        self._mean_input, self._mean_shift = (
            weight.new_zeros(m).float(),
            weight.new_zeros(d).float(),
        )
        self._total = 0.0

    def add(self, inputs: Tensor, hidden: Tensor, aim: Tensor | None) -> None:
        """inputs: (n, m). hidden: (n, d), the sparse stream after the block. aim: the dense one, if
        it is aimed at.
        """
        # In the model's own type, whose rounding is far below what so few tokens tell.
        stream = hidden if aim is None else aim
        scale = linear(inputs, out_weight(self._mlp)) if self._normed else stream
        roots = residual_weights(scale).sqrt()[:, None].to(inputs.dtype)
        weighted, wide = (inputs * roots).float(), roots.float()
        add_second_moment_(self._moment, weighted)
        self._mean_input += (weighted.T @ wide)[:, 0]
        if aim is not None:
            shift = ((aim - hidden) * roots).float()
            self._shift.addmm_(shift.T, weighted)
            self._mean_shift += (shift.T @ wide)[:, 0]
        self._total += float(wide.square().sum())

    def refit(self, kept: Tensor, damping: float, strength: float) -> PrunedMlp:
        """The narrowed MLP with the best out-projection. A block that keeps everything is refitted
        as well.
        """
        moment = mirror_lower_(self._moment).div_(self._total).cpu()
        shift = (strength * self._shift / self._total).cpu()
        weight, bias = _dense(self._mlp)
        if bias is None:
            return PrunedMlp(kept, _solve_kept(moment, weight, kept, damping, shift))
        mean = (self._mean_input / self._total).cpu()
        mean_shift = (strength * self._mean_shift / self._total).cpu()
        fitted = _solve_kept(
            moment.addr_(mean, mean, alpha=-1),
            weight,
            kept,
            damping,
            shift.addr_(mean_shift, mean, alpha=-1),
        )
        means = mean_shift + weight @ mean - fitted @ mean[kept]
        return PrunedMlp(kept, fitted, bias + means)


def _gone(mlp: Mlp) -> PrunedMlp:
    return PrunedMlp(torch.arange(0), torch.zeros(len(out_weight(mlp)), 0))


def _dense(mlp: Mlp) -> tuple[Tensor, Tensor | None]:
    """Copies of the out-projection (d, m) and its bias."""
    bias = mlp.out.bias
    return out_weight(mlp).to(
        "cpu", torch.float32, copy=True
    ), None if bias is None else bias.float().cpu()


def _solve_kept(
    moment: Tensor, weight: Tensor, kept: Tensor, damping: float, shift: Tensor
) -> Tensor:
    """The kept columns (d, k) that make up for the rest and move the output by y; shift: (d, m),
    the mean of y x^T.
    """
    gone = complement(kept, moment.shape[0])
    cross = submatrix(moment, kept, gone) @ weight[:, gone].T + shift[:, kept].T
    return (
        weight[:, kept]
        + damped_solution(lambda some: submatrix(moment, kept[some], kept), cross, damping)[0].T
    )
