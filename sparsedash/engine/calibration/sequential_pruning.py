"""Single weights chosen and compensated block after block, on what a model gives whose earlier
blocks are sparse.

Source: SparseGPT, arXiv:2301.00774, section 4.
"""

from collections.abc import Iterator, Sequence
from itertools import count

import torch

from sparsedash.engine.calibration.statistics import (
    BATCH_TOKENS,
    SeenBatch,
    WalkCheckpoint,
    block_statistics,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.surgery import reweighted
from sparsedash.engine.pruning.weight_pruning import MaskedBlock, masked_block
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.settings import TokenWeights


@torch.no_grad()
def prune_sequentially(
    loaded: LoadedModel,
    sequences: Sequence[Sequence[int]],
    method: MethodSettings,
    permille: int,
    *,
    shared: Sequence[Sequence[Sequence[str]]],
    token_weights: TokenWeights,
    on_step: OnStep,
    checkpoint: WalkCheckpoint,
) -> Iterator[tuple[int, MaskedBlock]]:
    """Each block's index and new weights, from the block on that the checkpoint of an interrupted
    pruning has reached.

    Every block is run twice over the text: with its dense weights, for the inputs of its
    projections, and with the new ones. Held-out sequences are not fitted. Errors are not measured:
    those of other methods are on dense inputs.
    shared: see `shared_inputs`.
    """
    numbered = loaded.batches(sequences, BATCH_TOKENS)
    walk = loaded.walk([batch for _, batch in numbered])
    first, blocks, lengths = (
        checkpoint.resume(walk),
        loaded.projections(method.scope),
        list(map(len, sequences)),
    )
    steps = count(2 * first * len(numbered))

    def report() -> None:
        on_step(Step("prune", next(steps), 2 * len(blocks) * len(numbered), unit="batches"))

    def through(index: int) -> Iterator[SeenBatch]:
        for number in walk.step(index):
            yield *numbered[number], walk.hidden[number]
            report()

    report()
    for index, (block, together) in list(enumerate(zip(blocks, shared, strict=True)))[first:]:
        before = walk.hidden
        groups = [own for names in together if (own := [name for name in names if name in block])]
        watched = [block[names[0]] for names in groups]
        found = block_statistics(loaded, watched, through(index), lengths, token_weights)
        walk.restart_from(before)
        del before
        inputs = list(zip(groups, found, strict=True))
        made = masked_block(
            block, inputs, method, permille, loaded.residency.offload, measured=False
        )
        yield index, made
        with reweighted([block], [made.weights]):
            for _ in through(index):
                pass
        checkpoint.reached(index + 1, walk)
