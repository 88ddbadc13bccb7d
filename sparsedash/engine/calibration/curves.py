"""Loss of the whole model without a part of it: curves of one MLP's channels, and layer orders.

Dimensions: b sequences and t tokens of a batch, d hidden width, n scored tokens, v vocabulary.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from math import isfinite
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, pad

from sparsedash.catalog.resources import (
    CURVE_TOKENS,
    LAYER_TOKENS,
    MIN_CURVE_LENGTH,
    judged_tokens,
)
from sparsedash.engine.calibration.statistics import (
    BATCH_TOKENS,
    beginnings,
    split_held_out,
)
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.linalg import row_slices
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight, pruned
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import ignore

MIN_CERTAIN = 0.1
"""Share of a measured loss that is never taken for rounding."""

ROWS = 64
"""Scored tokens whose logits are compared together: new memory for all takes 2.6 times as long."""

OnPart = Callable[[float], None]
"""Called with the share of a block's measurement that is done. May raise `Cancelled`."""


class CurveMeasurement:
    """Measures a model's loss with one narrower MLP, block after block.

    The loss is KL(dense || changed) of the next token in nats, on average over the scored tokens.
    All versions of an MLP go through the later blocks together. In half precision any change of a
    block also changes how later blocks round, which alone may cost half of what a few channels do:
    the loss of a change of last bits is subtracted.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        text: Sequence[Sequence[int]],
        *,
        by: str = "divergence",
    ) -> None:
        """text: token ids. by: the loss.

        "perplexity" is the mean negative log-likelihood of the text's own next token, at every token.
        """
        self._loaded = loaded
        self._by = by
        self._batches = [batch for _, batch in loaded.batches(text, BATCH_TOKENS)]
        self._walk = self._new_walk(1)
        self._n_done = 0

    @torch.no_grad()
    def losses(
        self, index: int, versions: Sequence[PrunedMlp], on_part: OnPart = ignore
    ) -> list[float]:
        """The loss with each version of this block's MLP. An earlier block starts over."""
        mlp = self._loaded.mlps[index]
        if out_weight(mlp).dtype == torch.float32:
            return self._measured(index, versions, on_part)
        rounding, *losses = self._measured(
            index,
            [_rounded_otherwise(mlp), *versions],
            on_part,
        )
        return [max(loss - rounding, MIN_CERTAIN * loss) for loss in losses]

    @torch.no_grad()
    def losses_without(
        self,
        gone: Collection[int],
        on_part: OnPart = ignore,
    ) -> dict[int, float]:
        """The loss without these layers and one more, by the index of that one.

        All go through a block together, so that streamed weights are read once.
        """
        walk = self._new_walk(1)
        layers = [
            index for index in range(len(self._loaded.blocks)) if index not in gone
        ]
        complete = walk.hidden
        states: dict[int, list[Tensor]] = {}

        def step(index: int, hidden: list[Tensor]) -> list[Tensor]:
            walk.restart_from(hidden)
            list(walk.step(index))
            return walk.hidden

        for n_done, index in enumerate(layers):
            on_part(n_done * (n_done + 1) / (len(layers) * (len(layers) + 1)))
            for removed, hidden in states.items():
                states[removed] = step(index, hidden)
            states[index] = complete
            complete = step(index, complete)
        losses = {}
        for index in layers:
            walk.restart_from(states.pop(index))
            (losses[index],) = self._mean_losses(walk, 1)
        return losses

    def _measured(
        self,
        index: int,
        versions: Sequence[PrunedMlp],
        on_part: OnPart,
    ) -> list[float]:
        on_part(0.0)
        mlp = self._loaded.mlps[index]
        n_blocks = len(self._loaded.blocks)
        if index < self._n_done:
            self._walk = self._new_walk(1)
            self._n_done = 0
        while self._n_done < index:
            list(self._walk.step(self._n_done))
            self._n_done += 1
        before = self._walk.hidden
        after = []
        for version in versions:
            self._walk.restart_from(before)
            with pruned([mlp], [version]):
                list(self._walk.step(index))
            after.append(self._walk.hidden)
        self._walk.restart_from(before)
        walk = self._new_walk(len(versions))
        walk.restart_from([torch.cat(batch) for batch in zip(*after, strict=True)])
        for later in range(index + 1, n_blocks):
            on_part((later - index) / (n_blocks - index))
            list(walk.step(later))
        return self._mean_losses(walk, len(versions))

    def _mean_losses(
        self,
        walk: BlockWalk,
        n_versions: int,
    ) -> list[float]:
        """The loss of each version in this walk, one below another in every batch."""
        device = self._loaded.model.device
        losses = torch.zeros(
            n_versions,
            dtype=torch.float64,
            device=device,
        )
        for number, (rows, columns) in enumerate(self._scored):
            target, entropy = self._targets[number]
            for version in range(n_versions):
                first_row = version * len(self._batches[number].ids)
                losses[version] -= entropy
                for part in row_slices(len(rows), self._most_scored):
                    logits = self._logits(
                        walk,
                        number,
                        rows[part] + first_row,
                        columns[part],
                    )
                    for chunk in row_slices(len(logits), ROWS):
                        scores = logits[chunk].float()
                        losses[version] += _cross_entropy(scores, target[part][chunk])
        n_scored = sum(len(rows) for rows, _ in self._scored)
        return (losses / n_scored).clamp_min(0).tolist()

    def _new_walk(self, n_versions: int) -> BlockWalk:
        copies = []
        for batch in self._batches:
            copies.append(
                Batch(batch.ids.repeat(n_versions, 1), batch.mask.repeat(n_versions, 1))
            )
        return self._loaded.walk(copies)

    @property
    def _most_scored(self) -> int:
        return judged_tokens(self._loaded.model.get_output_embeddings().weight.shape[0])

    @cached_property
    def _scored(self) -> list[tuple[Tensor, Tensor]]:
        """Rows and columns (n,) of the scored tokens of each batch.

        Drawn: a stride would favour first tokens.
        """
        masks = [batch.mask for batch in self._batches]
        if self._by == "perplexity":
            # Nothing follows the last token.
            masks = [pad(mask[:, 1:], (0, 1)) for mask in masks]
        places = [mask.nonzero() for mask in masks]
        sizes = [len(batch_places) for batch_places in places]
        n_scored = sum(sizes) if self._by == "perplexity" else self._most_scored
        order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(0))
        scored = []
        for batch_places, drawn in zip(
            places, torch.split(order < n_scored, sizes), strict=True
        ):
            rows, columns = batch_places[drawn.to(batch_places.device)].unbind(dim=1)
            scored.append((rows, columns))
        return scored

    @cached_property
    def _targets(self) -> list[tuple[Tensor, float]]:
        """Target and entropy of the scored tokens of each batch.

        The dense model's probabilities (n, v) and their summed entropy; by perplexity the next
        tokens (n,), and 0.
        """
        targets: list[tuple[Tensor, float]] = []
        if self._by == "perplexity":
            for batch, (rows, columns) in zip(self._batches, self._scored, strict=True):
                targets.append((batch.ids[rows, columns + 1], 0.0))
            return targets
        walk = self._new_walk(1)
        for block in range(len(self._loaded.blocks)):
            list(walk.step(block))
        for number, places in enumerate(self._scored):
            scores = log_softmax(self._logits(walk, number, *places).float(), dim=-1)
            probabilities = scores.exp()
            dot = torch.linalg.vecdot(probabilities, scores)
            targets.append((probabilities, -float(dot.sum(dtype=torch.float64))))
        return targets

    def _logits(
        self,
        walk: BlockWalk,
        number: int,
        rows: Tensor,
        columns: Tensor,
    ) -> Tensor:
        with head_sees_only(self._loaded.model, rows, columns):
            logits: Tensor = walk.output(self._loaded.model, number).logits
            return logits


def _cross_entropy(scores: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of scores (n, v), summed; target: probabilities (n, v), or tokens (n,)."""
    dense = target.dim() > 1
    expected = (
        torch.linalg.vecdot(target, scores)
        if dense
        else scores.gather(1, target[:, None])[:, 0]
    )
    return (scores.logsumexp(dim=-1) - expected).sum(dtype=torch.float64)


def _rounded_otherwise(mlp: Mlp) -> PrunedMlp:
    """The whole MLP, with some weights of its out-projection changed by their last bit."""
    weight = out_weight(mlp)
    changed = weight.float() * (1 + torch.finfo(weight.dtype).eps / 3)
    return PrunedMlp(torch.arange(mlp.width), changed.cpu())


def scored_text(sequences: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Beginnings of the held-out sequences, CURVE_TOKENS in all; else of the first sequence."""
    texts = split_held_out(sequences)[1] or sequences[:1]
    return beginnings(
        texts,
        CURVE_TOKENS,
        max(MIN_CURVE_LENGTH, CURVE_TOKENS // len(texts)),
    )


def layer_order(
    loaded: LoadedModel,
    sequences: Callable[[], Sequence[Sequence[int]]],
    method: MethodSettings,
    known: Sequence[int],
    on_part: OnPart,
) -> Iterator[list[int]]:
    """The layers in the order of their removal after the known ones, as many as are found at once.

    Nested: what is removed at 10 % is removed at 20 % too. At random by the seed; the least
    influence first (ShortGPT, arXiv:2403.03853); or the one without which the model loses least,
    measured anew: SLEB (arXiv:2402.09025) by the perplexity of the text, or by the divergence from
    dense. sequences: reads the calibration text, token ids. on_part: called with the share of the
    work on the next one that is done; may raise. Raises CalibrationError if a loss is not finite.
    """
    n = len(loaded.blocks)
    gone = list(known)
    if method.saliency == "random":
        yield Random(method.seed).sample(range(n), n)[len(gone) :]
        return
    if method.saliency == "block-influence":
        influences = _influences(loaded, sequences(), on_part)
        yield sorted(range(n), key=influences.__getitem__)[len(gone) :]
        return
    # A choice among a few layers has nothing to overfit with.
    text = beginnings(sequences(), LAYER_TOKENS, MIN_CURVE_LENGTH)
    measurement = CurveMeasurement(loaded, text, by=method.saliency)
    while len(gone) < n:
        losses = measurement.losses_without(gone, on_part)
        if not all(map(isfinite, losses.values())):
            raise CalibrationError(
                "Without one of its layers, predictions are not finite.", "Use float32."
            )
        gone.append(min(losses, key=losses.__getitem__))
        yield gone[-1:]


@torch.no_grad()
def _influences(
    loaded: LoadedModel, sequences: Sequence[Sequence[int]], on_part: OnPart
) -> list[float]:
    """1 - the mean cosine between the residual stream before and after each block."""
    influences = []
    batches = [batch for _, batch in loaded.batches(sequences, BATCH_TOKENS)]
    walk = loaded.walk(batches)
    for index in range(len(loaded.blocks)):
        on_part(index / len(loaded.blocks))
        before = walk.hidden
        total = 0.0
        n_tokens = 0
        for number in walk.step(index):
            real = batches[number].mask.bool()
            old = before[number][real].float()
            new = walk.hidden[number][real].float()
            total += float(torch.cosine_similarity(old, new, dim=-1).sum())
            n_tokens += len(new)
        influences.append(1 - total / n_tokens)
    return influences
