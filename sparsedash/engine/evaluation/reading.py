"""Reads batches of passages to their last word: how likely it was, and how the answer begins where it is another.

Several batches go through the model together, a block at a time: a block whose weights lie in a file is read once for
all of them.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from transformers import DynamicCache

from sparsedash.engine.evaluation.answers import Unfinished, unfinished
from sparsedash.engine.evaluation.questions import Question
from sparsedash.engine.evaluation.so_far import SoFar
from sparsedash.engine.evaluation.target_scores import TargetScore, target_scores
from sparsedash.engine.models.block_walk import Applied, Batch, BlockWalk, head_sees_only
from sparsedash.engine.models.loading import LoadedModel


@dataclass(frozen=True, eq=False, kw_only=True)
class Answering:
    """A model that answers. applied: what the loaded model becomes for it.

    so_far: where its answers are kept on the way, and those of an attempt that was broken off, which it is not asked
    for again.
    """

    applied: Applied = nullcontext
    so_far: SoFar = field(default_factory=SoFar)


@dataclass(frozen=True, eq=False)
class Asked:
    """One batch that a model is to read. rows: the positions of its passages."""

    model: Answering
    rows: list[int]
    questions: Sequence[Question]
    batch: Batch


@dataclass(frozen=True, eq=False)
class Read:
    """One batch that was read. begun: the tokens of each answer that differs from the target, None for the others.

    unfinished: those of them that are no whole word yet; finishing them adds to `begun`.
    """

    model: Answering
    rows: list[int]
    scores: list[TargetScore]
    begun: list[list[int] | None]
    unfinished: list[Unfinished]

    @property
    def kept_bytes(self) -> int:
        """What is kept of the passages for finishing."""
        layers = (layer for part in self.unfinished for layer in part.layers)
        return sum(keys.nbytes + values.nbytes for keys, values in layers)


def that_fit(asked: Sequence[Asked], n_tokens: float) -> Sequence[Asked]:
    """The first of these batches that have so many tokens together, padding included; one at least."""
    so_far = list(accumulate(each.batch.ids.numel() for each in asked))
    return asked[: max(1, bisect_right(so_far, n_tokens))]


def read(loaded: LoadedModel, asked: Sequence[Asked], on_block: Callable[[int], None]) -> list[Read]:
    """Read these batches together. on_block: as in BlockWalk.run."""
    # Made without the config: one that forgets what is outside a sliding window cannot hold right-padded rows.
    caches = [DynamicCache() for _ in asked]
    walk = BlockWalk(loaded.model.base_model, loaded.blocks, [each.batch for each in asked], caches)

    def hold_and_tell(index: int) -> None:
        for cache in caches if index else ():
            layer = cache.layers[-1]
            layer.keys, layer.values = loaded.residency.hold_all([layer.keys, layer.values])
        on_block(index)

    walk.run([each.model.applied for each in asked], hold_and_tell)
    return [_answered(loaded, each, walk, number, caches[number]) for number, each in enumerate(asked)]


def bytes_a_token(loaded: LoadedModel) -> int:
    """What the model keeps of each token that it reads, as the first block tells."""
    cache = DynamicCache()
    ids = torch.zeros((1, 1), dtype=torch.long, device=loaded.model.device)
    next(BlockWalk(loaded.model.base_model, loaded.blocks, [Batch(ids, ids)], [cache]).step(0))
    return len(loaded.blocks) * sum(int(held.nbytes) for held in (cache.layers[0].keys, cache.layers[0].values))


def _answered(loaded: LoadedModel, asked: Asked, walk: BlockWalk, number: int, cache: DynamicCache) -> Read:
    questions, device = asked.questions, asked.batch.ids.device
    places = [row for row, question in enumerate(questions) for _ in question.target]
    columns = [len(q.context) - 1 + i for q in questions for i in range(len(q.target))]
    where = torch.tensor(places, device=device), torch.tensor(columns, device=device)
    with head_sees_only(loaded.model, *where):
        logits = walk.output(loaded.model, number).logits
    scores = list(target_scores(logits.float(), [q.target for q in questions]))
    begun = [score.first_wrong for score in scores]
    going_on = unfinished(loaded, asked.model.applied, cache, [len(q.context) for q in questions], begun)
    return Read(asked.model, asked.rows, scores, begun, going_on)
