"""A walk gives the hidden states of the model's own forward, whatever a family passes on."""

from contextlib import ExitStack
from functools import partial
from itertools import chain

import pytest
import torch

from sparsedash.engine.models.decoder_blocks import BlockWalk, batches_by_length
from tests.engine.tiny import CONFIGS, as_loaded, seeded, tiny_model

CPU = torch.device("cpu")


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_walking_block_by_block_gives_the_hidden_states_of_a_plain_forward(model_type):
    model = tiny_model(model_type)
    blocks = as_loaded(model).blocks
    generator = seeded(3)
    sequences = [
        torch.randint(1, 400, (n,), generator=generator).tolist()
        for n in (24, 9, 17, 30)
    ]
    batches = [batch for _, batch in batches_by_length(sequences, 60, 0, CPU)]
    assert len(batches) > 1
    plain = [[] for _ in blocks]

    def note(index, _, inputs, output):
        plain[index].append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks:
        for index, block in enumerate(blocks):
            hooks.enter_context(block.register_forward_hook(partial(note, index)))
        for batch in batches:
            model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                use_cache=False,
            )
    walk = BlockWalk(model.base_model, blocks, batches)
    for index, outputs in enumerate(plain):
        list(walk.step(index))
        for batch, hidden, expected in zip(batches, walk.hidden, outputs, strict=True):
            real = batch.mask.bool()
            assert (hidden[real] - expected[real]).abs().max() <= 1e-5


def test_batches_hold_every_sequence_once_longest_first_within_the_budget():
    sequences = [[1] * n for n in (3, 9, 1, 4, 4, 20)]
    batches = batches_by_length(sequences, 10, 7, CPU)
    assert sorted(chain.from_iterable(rows for rows, _ in batches)) == list(range(6))
    assert [batch.ids.shape[1] for _, batch in batches] == [20, 9, 4, 3]
    for rows, batch in batches:
        assert batch.ids.numel() <= 10 or len(rows) == 1
        assert batch.mask.sum(dim=1).tolist() == [len(sequences[row]) for row in rows]
        assert (batch.ids[batch.mask == 0] == 7).all()
