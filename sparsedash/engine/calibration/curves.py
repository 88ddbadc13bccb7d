"""Curves: what the whole model loses with some of one MLP's channels gone; measured one MLP at a time.

Dimensions: b sequences and t tokens of a batch, d hidden width, n judged tokens, v vocabulary.
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from sparsedash.catalog.resources import CURVE_TOKENS, LEAST_CURVE_LENGTH, judged_tokens
from sparsedash.engine.calibration.statistics import BATCH_TOKENS, beginnings, split_held_out
from sparsedash.engine.models.decoder_blocks import Batch, BlockWalk, batches_by_length, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.linalg import row_slices
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, out_weight, pruned

LEAST_CERTAIN = 0.1
"""Share of a measured loss that is not taken for rounding."""

ROWS = 64
"""Judged tokens whose logits are compared together: in new memory for all, it takes 2.6 times as long."""

OnPart = Callable[[float], None]
"""Called with the share of a block's measurement that is done. May raise `Cancelled`."""


class CurveMeasurement:
    """Measures a model's loss with one narrower MLP, block after block; the text waits before each block.

    The loss is KL(dense || changed) of the next token in nats, on average over the judged tokens of text that no fit
    has seen. All versions of an MLP go through the blocks behind it together. In half precision any change of a block
    also changes how the blocks behind it round, which alone may cost half of what a few channels do: the loss of a
    change of last bits is subtracted.
    """

    def __init__(self, loaded: LoadedModel, sequences: Sequence[Sequence[int]]) -> None:
        """sequences: the calibration text, of whose held-out sequences the beginnings are read."""
        self._loaded = loaded
        text, pad = judged_text(sequences), loaded.tokenizer.pad_token_id or 0
        self._batches = [batch for _, batch in batches_by_length(text, BATCH_TOKENS, pad, loaded.model.device)]
        self._walk = self._new_walk(1)
        self._reached = 0

    @torch.no_grad()
    def losses(self, index: int, versions: Sequence[PrunedMlp], on_part: OnPart = lambda share: None) -> list[float]:
        """The loss with each version in place of this block's MLP.

        Blocks are asked for in order; an earlier one begins anew.
        """
        mlp = self._loaded.mlps[index]
        if out_weight(mlp).dtype == torch.float32:
            return self._measured(index, versions, on_part)
        rounding, *measured = self._measured(index, [_rounded_otherwise(mlp), *versions], on_part)
        return [max(loss - rounding, LEAST_CERTAIN * loss) for loss in measured]

    def _measured(self, index: int, versions: Sequence[PrunedMlp], on_part: OnPart) -> list[float]:
        on_part(0.0)
        dense, mlp, n_blocks = self._dense, self._loaded.mlps[index], len(self._loaded.blocks)
        start, after = self._before(index), list[list[Tensor]]()
        for narrow in versions:
            self._walk.go_back(start)
            with pruned([mlp], [narrow]):
                list(self._walk.step(index))
            after.append(self._walk.hidden)
        self._walk.go_back(start)
        together = self._new_walk(len(versions))
        together.go_back([torch.cat(own) for own in zip(*after, strict=True)])
        for behind in range(index + 1, n_blocks):
            on_part((behind - index) / (n_blocks - index))
            list(together.step(behind))
        found = torch.zeros(len(versions), dtype=torch.float64)
        for number, (rows, columns) in enumerate(self._judged):
            probabilities, entropy = dense[number]
            for version in range(len(versions)):
                first_row = version * len(self._batches[number].ids)
                logits = self._logits(together, number, rows + first_row, columns)
                found[version] -= entropy
                for some in row_slices(len(logits), ROWS):
                    scores = logits[some].float()
                    surprise = scores.logsumexp(dim=-1) - torch.linalg.vecdot(probabilities[some], scores)
                    found[version] += surprise.sum(dtype=torch.float64)
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
        copies = [Batch(own.ids.repeat(n_versions, 1), own.mask.repeat(n_versions, 1)) for own in self._batches]
        return BlockWalk(self._loaded.model.base_model, self._loaded.blocks, copies)

    @cached_property
    def _judged(self) -> list[tuple[Tensor, Tensor]]:
        """Rows and columns (n,) of the judged tokens of each batch, evenly spread."""
        places = [batch.mask.nonzero() for batch in self._batches]
        every = -(-sum(map(len, places)) // judged_tokens(self._loaded.model.get_output_embeddings().weight.shape[0]))
        return [(own[::every, 0], own[::every, 1]) for own in places]

    @cached_property
    def _dense(self) -> list[tuple[Tensor, float]]:
        """Probabilities (n, v) of the dense model at the judged tokens of each batch, and their summed entropy."""
        walk, found = self._new_walk(1), []
        for block in range(len(self._loaded.blocks)):
            list(walk.step(block))
        for number, places in enumerate(self._judged):
            scores = log_softmax(self._logits(walk, number, *places).float(), dim=-1)
            probabilities = scores.exp()
            found.append((probabilities, -float(torch.linalg.vecdot(probabilities, scores).sum(dtype=torch.float64))))
        return found

    def _logits(self, walk: BlockWalk, number: int, rows: Tensor, columns: Tensor) -> Tensor:
        with head_sees_only(self._loaded.model, rows, columns):
            logits: Tensor = walk.output(self._loaded.model, number).logits
            return logits


def _rounded_otherwise(mlp: Mlp) -> PrunedMlp:
    """The whole MLP, with some weights of its out-projection changed by their last bit."""
    weight = out_weight(mlp)
    return PrunedMlp(torch.arange(mlp.width), (weight.float() * (1 + torch.finfo(weight.dtype).eps / 3)).cpu())


def judged_text(sequences: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Beginnings of the held-out sequences, CURVE_TOKENS in all; of the first one where none is held out."""
    apart = split_held_out(sequences)[1] or sequences[:1]
    return beginnings(apart, CURVE_TOKENS, max(LEAST_CURVE_LENGTH, CURVE_TOKENS // len(apart)))
