"""Single weights pruned block after block, on the activations of a model with sparse earlier blocks.

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
    """Index and new weights of each block, from the block that an interrupted pruning had reached.

    Every block runs twice over the text: with its dense weights, for the inputs of its projections,
    and with the new ones. Held-out sequences are not fitted. Errors are not measured: those of
    other methods are on dense inputs. shared: see `shared_inputs`.
    """
    batches = loaded.batches(sequences, BATCH_TOKENS)
    walk = loaded.walk([batch for _, batch in batches])
    blocks = loaded.projections(method.scope)
    lengths = list(map(len, sequences))
    first = checkpoint.resume(walk)
    n_done = count(2 * first * len(batches))

    def report() -> None:
        on_step(
            Step("prune", next(n_done), 2 * len(blocks) * len(batches), unit="batches")
        )

    def through(index: int) -> Iterator[SeenBatch]:
        for number in walk.step(index):
            yield *batches[number], walk.hidden[number]
            report()

    report()
    for index in range(first, len(blocks)):
        block = blocks[index]
        groups = []
        for names in shared[index]:
            group = [name for name in names if name in block]
            if group:
                groups.append(group)
        before = walk.hidden
        watched = [block[group[0]] for group in groups]
        statistics = block_statistics(
            loaded,
            watched,
            through(index),
            lengths,
            token_weights,
        )
        walk.restart_from(before)
        del before
        inputs = list(zip(groups, statistics, strict=True))
        offload = loaded.residency.offload
        masked = masked_block(
            block,
            inputs,
            method,
            permille,
            offload,
            measured=False,
        )
        yield index, masked
        with reweighted([block], [masked.weights]):
            for _ in through(index):
                pass
        checkpoint.reached(index + 1, walk)
