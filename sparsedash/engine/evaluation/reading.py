"""Reads batches of passages to their last word: how likely it was, and how the answer begins where it is another.

Several batches go through the model together, a block at a time: a block whose weights lie in a file is read once for
all of them.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from transformers import DynamicCache

from sparsedash.engine.evaluation.answers import Unfinished, unfinished
from sparsedash.engine.evaluation.questions import Question
from sparsedash.engine.evaluation.target_scores import TargetScore, target_scores
from sparsedash.engine.models.block_walk import Batch, BlockWalk, head_sees_only
from sparsedash.engine.models.loading import LoadedModel


@dataclass(frozen=True, eq=False)
class Asked:
    """One batch that is to be read. rows: the positions of its passages."""

    rows: list[int]
    questions: Sequence[Question]
    batch: Batch


@dataclass(frozen=True, eq=False)
class Read:
    """One batch that was read. begun: the tokens of each answer that differs from the target, None for the others.

    unfinished: those of them that are no whole word yet; finishing them adds to `begun`. bytes_a_token: what the model
    keeps of each token, padding included.
    """

    rows: list[int]
    scores: list[TargetScore]
    begun: list[list[int] | None]
    unfinished: list[Unfinished]
    bytes_a_token: float

    @property
    def kept_bytes(self) -> int:
        """What is kept of the passages for finishing."""
        layers = (layer for part in self.unfinished for layer in part.layers)
        return sum(keys.nbytes + values.nbytes for keys, values in layers)


def that_fit(asked: Sequence[Asked], n_tokens: float) -> Sequence[Asked]:
    """The first of these batches that have so many tokens together, padding included; one at least."""
    so_far = list(accumulate(each.batch.ids.numel() for each in asked))
    return asked[: max(1, bisect_right(so_far, n_tokens))]


def read(loaded: LoadedModel, asked: Sequence[Asked], on_block: Callable[[], None]) -> list[Read]:
    """Read these batches together. on_block: called when all of them are through a block; may raise."""
    # Made without the config: one that forgets what is outside a sliding window cannot hold right-padded rows.
    caches = [DynamicCache() for _ in asked]
    walk = BlockWalk(loaded.model.base_model, loaded.blocks, [each.batch for each in asked], caches)
    for index in range(len(loaded.blocks)):
        list(walk.step(index))
        on_block()
    return [_answered(loaded, each, walk, number, caches[number]) for number, each in enumerate(asked)]


def _answered(loaded: LoadedModel, asked: Asked, walk: BlockWalk, number: int, cache: DynamicCache) -> Read:
    questions, device = asked.questions, asked.batch.ids.device
    places = [row for row, question in enumerate(questions) for _ in question.target]
    columns = [len(q.context) - 1 + i for q in questions for i in range(len(q.target))]
    where = torch.tensor(places, device=device), torch.tensor(columns, device=device)
    with head_sees_only(loaded.model, *where):
        logits = walk.output(loaded.model, number).logits
    scores = list(target_scores(logits.float(), [q.target for q in questions]))
    begun = [score.first_wrong for score in scores]
    kept = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / asked.batch.ids.numel()
    return Read(asked.rows, scores, begun, unfinished(loaded, cache, [len(q.context) for q in questions], begun), kept)
