"""What the whole model loses with a part of it gone: curves of one MLP's channels, and the order in
which layers go.

Dimensions: b sequences and t tokens of a batch, d hidden width, n judged tokens, v vocabulary.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from math import isfinite
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from sparsedash.catalog.resources import (
    CURVE_TOKENS,
    LAYER_TOKENS,
    LEAST_CURVE_LENGTH,
    judged_tokens,
)
from sparsedash.engine.calibration.statistics import BATCH_TOKENS, beginnings, split_held_out
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.linalg import row_slices
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight, pruned
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.method_settings import MethodSettings

LEAST_CERTAIN = 0.1
"""Share of a measured loss that is not taken for rounding."""

ROWS = 64
"""Judged tokens whose logits are compared together: in new memory for all, it takes 2.6 times as
long.
"""

OnPart = Callable[[float], None]
"""Called with the share of a block's measurement that is done. May raise `Cancelled`."""


class CurveMeasurement:
    """Measures a model's loss with one narrower MLP, block after block; the text waits before each
    block.

    The loss is KL(dense || changed) of the next token in nats, on average over the judged tokens. All versions of an
    MLP go through the blocks behind it together. In half precision any change of a block also changes how the blocks
    behind it round, which alone may cost half of what a few channels do: the loss of a change of last bits is
    subtracted.
    """

    def __init__(
        self, loaded: LoadedModel, text: Sequence[Sequence[int]], *, by: str = "divergence"
    ) -> None:
        """text: token ids. by: the loss; "perplexity" is the surprise at the text's own next token,
        in nats, at every token.
        """
        self._loaded, self._by = loaded, by
        self._batches = [batch for _, batch in loaded.batches(text, BATCH_TOKENS)]
        self._walk = self._new_walk(1)
        self._reached = 0

    @torch.no_grad()
    def losses(
        self, index: int, versions: Sequence[PrunedMlp], on_part: OnPart = lambda share: None
    ) -> list[float]:
        """The loss with each version in place of this block's MLP.

        Blocks are asked for in order; an earlier one begins anew.
        """
        mlp = self._loaded.mlps[index]
        if out_weight(mlp).dtype == torch.float32:
            return self._measured(index, versions, on_part)
        rounding, *measured = self._measured(index, [_rounded_otherwise(mlp), *versions], on_part)
        return [max(loss - rounding, LEAST_CERTAIN * loss) for loss in measured]

    @torch.no_grad()
    def losses_without(
        self, gone: Collection[int], on_part: OnPart = lambda share: None
    ) -> dict[int, float]:
        """The loss without these layers and one more, by the index of that one.

        All go through a block together, so that streamed weights are read once.
        """
        walk, left = (
            self._new_walk(1),
            [index for index in range(len(self._loaded.blocks)) if index not in gone],
        )
        # By the layer that was left out; none so far.
        states: dict[int | None, list[Tensor]] = {None: walk.hidden}
        for n_done, index in enumerate(left):
            on_part(n_done * (n_done + 1) / (len(left) * (len(left) + 1)))
            before = states[None]
            for out, hidden in states.items():
                walk.restart_from(hidden)
                list(walk.step(index))
                states[out] = walk.hidden
            states[index] = before
        found = {}
        for index in left:
            walk.restart_from(states.pop(index))
            (found[index],) = self._mean_losses(walk, 1)
        return found

    def _measured(self, index: int, versions: Sequence[PrunedMlp], on_part: OnPart) -> list[float]:
        on_part(0.0)
        mlp, n_blocks = self._loaded.mlps[index], len(self._loaded.blocks)
        start, after = self._before(index), list[list[Tensor]]()
        for narrow in versions:
            self._walk.restart_from(start)
            with pruned([mlp], [narrow]):
                list(self._walk.step(index))
            after.append(self._walk.hidden)
        self._walk.restart_from(start)
        together = self._new_walk(len(versions))
        together.restart_from([torch.cat(own) for own in zip(*after, strict=True)])
        for behind in range(index + 1, n_blocks):
            on_part((behind - index) / (n_blocks - index))
            list(together.step(behind))
        return self._mean_losses(together, len(versions))

    def _mean_losses(self, walk: BlockWalk, n_versions: int) -> list[float]:
        """The loss of each version whose hidden states this walk has, below one another in every
        batch.
        """
        found, aims = (
            torch.zeros(n_versions, dtype=torch.float64, device=self._loaded.model.device),
            self._aims,
        )
        for number, (rows, columns) in enumerate(self._judged):
            aim, entropy = aims[number]
            for version in range(n_versions):
                first_row = version * len(self._batches[number].ids)
                found[version] -= entropy
                for part in row_slices(len(rows), self._most_judged):
                    logits = self._logits(walk, number, rows[part] + first_row, columns[part])
                    for some in row_slices(len(logits), ROWS):
                        found[version] += _surprise(logits[some].float(), aim[part][some])
        return (found / sum(len(rows) for rows, _ in self._judged)).clamp_min(0).tolist()

    def _before(self, index: int) -> list[Tensor]:
        """Hidden states (b, t, d) of every batch before this block."""
        if index < self._reached:
            self._walk, self._reached = self._new_walk(1), 0
        while self._reached < index:
            list(self._walk.step(self._reached))
            self._reached += 1
        return self._walk.hidden

    def _new_walk(self, n_versions: int) -> BlockWalk:
        copies = [
            Batch(own.ids.repeat(n_versions, 1), own.mask.repeat(n_versions, 1))
            for own in self._batches
        ]
        return self._loaded.walk(copies)

    @property
    def _most_judged(self) -> int:
        return judged_tokens(self._loaded.model.get_output_embeddings().weight.shape[0])

    @cached_property
    def _judged(self) -> list[tuple[Tensor, Tensor]]:
        """Rows and columns (n,) of the judged tokens of each batch, drawn: a stride would favour
        first tokens.
        """
        masks = [batch.mask for batch in self._batches]
        if self._by == "perplexity":
            # Nothing follows the last token.
            masks = [torch.nn.functional.pad(mask[:, 1:], (0, 1)) for mask in masks]
        places = [mask.nonzero() for mask in masks]
        sizes = [len(own) for own in places]
        n_all = sum(sizes)
        n_judged = n_all if self._by == "perplexity" else self._most_judged
        chosen = torch.randperm(n_all, generator=torch.Generator().manual_seed(0)) < n_judged
        drawn = [
            own[some.to(own.device)]
            for own, some in zip(places, torch.split(chosen, sizes), strict=True)
        ]
        return [(own[:, 0], own[:, 1]) for own in drawn]

    @cached_property
    def _aims(self) -> list[tuple[Tensor, float]]:
        """Probabilities (n, v) of the dense model at the judged tokens of each batch, and their
        summed entropy; or the tokens (n,) that follow, and 0.
        """
        if self._by == "perplexity":
            together = zip(self._batches, self._judged, strict=True)
            return [(batch.ids[rows, columns + 1], 0.0) for batch, (rows, columns) in together]
        walk, found = self._new_walk(1), list[tuple[Tensor, float]]()
        for block in range(len(self._loaded.blocks)):
            list(walk.step(block))
        for number, places in enumerate(self._judged):
            scores = log_softmax(self._logits(walk, number, *places).float(), dim=-1)
            probabilities = scores.exp()
            found.append(
                (
                    probabilities,
                    -float(torch.linalg.vecdot(probabilities, scores).sum(dtype=torch.float64)),
                )
            )
        return found

    def _logits(self, walk: BlockWalk, number: int, rows: Tensor, columns: Tensor) -> Tensor:
        with head_sees_only(self._loaded.model, rows, columns):
            logits: Tensor = walk.output(self._loaded.model, number).logits
            return logits


def _surprise(scores: Tensor, aim: Tensor) -> Tensor:
    """Cross entropy, summed over n tokens. scores: (n, v). aim: probabilities (n, v), or what
    follows (n,).
    """
    meant = (
        torch.linalg.vecdot(aim, scores) if aim.dim() > 1 else scores.gather(1, aim[:, None])[:, 0]
    )
    return (scores.logsumexp(dim=-1) - meant).sum(dtype=torch.float64)


def _rounded_otherwise(mlp: Mlp) -> PrunedMlp:
    """The whole MLP, with some weights of its out-projection changed by their last bit."""
    weight = out_weight(mlp)
    return PrunedMlp(
        torch.arange(mlp.width), (weight.float() * (1 + torch.finfo(weight.dtype).eps / 3)).cpu()
    )


def judged_text(sequences: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Beginnings of the held-out sequences, CURVE_TOKENS in all; of the first one where none is
    held out.
    """
    apart = split_held_out(sequences)[1] or sequences[:1]
    return beginnings(apart, CURVE_TOKENS, max(LEAST_CURVE_LENGTH, CURVE_TOKENS // len(apart)))


def layer_order(
    loaded: LoadedModel,
    sequences: Callable[[], Sequence[Sequence[int]]],
    method: MethodSettings,
    known: Sequence[int],
    on_part: OnPart,
) -> Iterator[list[int]]:
    """The layers in the order of their removal, behind those that are known, by as many as are
    found at once.

    It is nested: what goes at 10 % goes at 20 % too. At random by the seed; the least influence
    first (ShortGPT, arXiv:2403.03853); or the one without which the model loses least, measured
    anew: SLEB (arXiv:2402.09025) by the perplexity of the text, or by the divergence from dense.
    sequences: gives the calibration text, token ids. on_part: called with the share of the work on
    the next one that is done; may raise. Raises CalibrationError where a loss is not finite.
    """
    n, gone = len(loaded.blocks), list(known)
    if method.saliency == "random":
        yield Random(method.seed).sample(range(n), n)[len(gone) :]
        return
    if method.saliency == "block-influence":
        found = _influences(loaded, sequences(), on_part)
        yield sorted(range(n), key=found.__getitem__)[len(gone) :]
        return
    # A choice among a few layers has nothing to overfit with.
    text = beginnings(sequences(), LAYER_TOKENS, LEAST_CURVE_LENGTH)
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
    """Of each block 1 - the mean cosine, over all tokens, between the residual stream before and
    after it.
    """
    found = list[float]()
    batches = [batch for _, batch in loaded.batches(sequences, BATCH_TOKENS)]
    walk = loaded.walk(batches)
    for index in range(len(loaded.blocks)):
        on_part(index / len(loaded.blocks))
        before, total, n_tokens = walk.hidden, 0.0, 0
        for number in walk.step(index):
            real = batches[number].mask.bool()
            old, new = (own[real].float() for own in (before[number], walk.hidden[number]))
            cosines = torch.cosine_similarity(old, new, dim=-1)
            total, n_tokens = total + float(cosines.sum()), n_tokens + len(cosines)
        found.append(1 - total / n_tokens)
    return found
