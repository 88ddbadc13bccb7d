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

from sparsedash.engine.calibration.statistics import WalkCheckpoint, held_out, residual_weights
from sparsedash.engine.models.decoder_blocks import Batch, capture_inputs
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
    residency = loaded.residency
    numbered = loaded.batches(sequences, BATCH_TOKENS)
    batches = [batch for _, batch in numbered]
    if not any(mlp.width for mlp in mlps):
        for index, mlp in enumerate(mlps):
            yield index, _without_channels(mlp)
        return
    adds, normed = _joins(loaded, batches[0])
    unchanged = all(len(kept[i]) in (0, mlp.width) for i, mlp in enumerate(mlps))
    if not adds and unchanged:
        # Nothing to make up for but the loss of earlier blocks.
        for index, mlp in enumerate(mlps):
            refit = _without_channels(mlp)
            if len(kept[index]):
                weight, _ = _dense(mlp)
                refit = PrunedMlp(kept[index], weight, lost=0.0).moved_to(residency.offload)
            residency.drop()
            yield index, refit
        return
    walks = [loaded.walk(batches) for _ in range(1 + adds)]
    sparse = walks[0]
    dense = walks[1] if adds else None
    first = checkpoint.resume(*walks) if checkpoint else 0
    n_done = count(2 * first * len(batches))

    def report() -> None:
        on_step(Step("prune", next(n_done), 2 * len(mlps) * len(batches), unit="batches"))

    report()
    device = loaded.model.device
    fitted = [batch.mask.bool() & ~held_out(rows).to(device) for rows, batch in numbered]
    # The dense model goes ahead through removed layers; an interrupted one had done so.
    n_blocks = len(mlps)
    n_through = _next_kept(n_blocks, removed_layers, first) if first else 0
    for index in range(first, len(mlps)):
        mlp = mlps[index]
        if index in removed_layers:
            yield index, _without_channels(mlp)
            continue
        while dense and n_through < _next_kept(n_blocks, removed_layers, index + 1):
            for _ in dense.step(n_through):
                report()
            n_through += 1
        if not mlp.width:
            for _ in sparse.step(index):
                report()
            yield index, _without_channels(mlp)
            if checkpoint:
                checkpoint.reached(index + 1, *walks)
            continue
        before = [] if adds else sparse.hidden
        sums = _Sums(mlp, normed=normed)
        inputs: list[Tensor] = []
        with capture_inputs([mlp.out], [inputs.append]):
            for number in sparse.step(index):
                tokens = fitted[number]
                inputs[-1] = inputs[-1].reshape(*tokens.shape, -1)
                aim = dense.hidden[number][tokens] if dense else None
                sums.add(inputs[-1][tokens], sparse.hidden[number][tokens], aim)
                if not adds:
                    inputs.clear()
                report()
        refit = sums.refit(kept[index], damping, strength).moved_to(residency.offload)
        yield index, refit
        if adds:
            # The sparse stream differs by the change of the MLP's output.
            weight, bias = (part.to(inputs[0]) for part in refit.change(*_dense(mlp)))
            hidden = sparse.hidden
            sparse.restart_from(
                [states.add_(linear(inputs.pop(0), weight, bias)) for states in hidden]
            )
        else:
            sparse.restart_from(before)
            with pruned([mlp], [refit]):
                for _ in sparse.step(index):
                    report()
        if checkpoint:
            checkpoint.reached(index + 1, *walks)


def _next_kept(n_blocks: int, removed_layers: Collection[int], index: int) -> int:
    """The first layer from this one on that is not removed; after the last one their number."""
    while index in removed_layers:
        index += 1
    return min(index, n_blocks)


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
        with out.register_forward_hook(lambda _, inputs, output: factor * output + shift):
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
