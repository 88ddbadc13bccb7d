"""Mask gradients equal finite differences of the loss."""

import pytest
import torch

from sparsedash.engine.calibration.gradients import mask_gradients
from sparsedash.schema.errors import Cancelled
from sparsedash.schema.progress import ignore_steps
from tests.engine.tiny import tiny_loaded

# Wide enough for families that compute some parts in float32 whatever the model is in.
STEP = 1e-2
SEQUENCES = [[5, 9, 3, 7], [8, 2, 6, 4, 1, 3], [3, 3]]
LONG = [7, 3, 9, 1, 5, 5, 2, 8, 4, 6, 3, 1]


@pytest.fixture(
    scope="module",
    params=["llama", "gpt2", "opt", "bloom"],
)
def double(request):
    """A tiny model in float64, for exact differences."""
    loaded = tiny_loaded(request.param)
    loaded.model.double()
    return loaded


def loss(loaded, ids, block=0, channel=0, mask=1.0):
    """Mean next-token loss with one channel scaled."""

    def scale(_, inputs):
        x = inputs[0].clone()
        x[..., channel] *= mask
        return (x,)

    tokens = torch.tensor([ids])
    with loaded.mlps[block].out.register_forward_pre_hook(scale):
        logits = loaded.model(tokens).logits[0, :-1]
    return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:]))


def difference(loaded, ids, block, channel, around):
    above = loss(loaded, ids, block, channel, around + STEP)
    below = loss(loaded, ids, block, channel, around - STEP)
    return pytest.approx(
        (above - below) / (2 * STEP),
        rel=5e-3,
        abs=1e-6,
    )


@pytest.mark.parametrize(("block", "channel"), [(0, 3), (1, 17), (2, 90)])
def test_mask_gradients_equal_finite_differences(double, block, channel):
    gradients = mask_gradients(double, SEQUENCES, ignore_steps)[block]
    assert gradients.shape == (len(SEQUENCES), double.mlps[block].width)
    for row, ids in enumerate(SEQUENCES):
        assert float(gradients[row, channel]) == difference(
            double, ids, block, channel, 1
        )


def test_rounds_read_the_sequences_in_order_each_with_the_masks_of_those_before(double):
    """The dense model reads two sequences, then channel 3 of the first block is masked."""
    calls = []

    def masks(done, gradients, on_block):
        on_block(1, 2)
        calls.append((done, [block.clone() for block in gradients]))
        masked = [torch.ones(mlp.width) for mlp in double.mlps]
        masked[0][3] = 0
        return masked

    sequences = [*SEQUENCES, LONG]
    in_rounds = mask_gradients(
        double,
        sequences,
        ignore_steps,
        n_rounds=2,
        masks=masks,
    )
    dense = mask_gradients(double, sequences, ignore_steps)
    ((done, first_round),) = calls
    assert done == 1 / 2
    for rounds, usual, first in zip(in_rounds, dense, first_round, strict=True):
        assert torch.equal(rounds[:2], usual[:2])
        assert torch.equal(rounds[:2], first)
        assert not torch.allclose(rounds[3], usual[3])
    # The mask's own derivative, at 0: the channel may come back.
    assert float(in_rounds[0][3, 3]) == difference(double, LONG, 0, 3, 0)


def test_there_are_at_most_as_many_rounds_as_sequences_with_steps_of_one_whole(double):
    steps = []

    def ones(*_):
        return [torch.ones(mlp.width) for mlp in double.mlps]

    in_rounds = mask_gradients(
        double,
        SEQUENCES,
        steps.append,
        n_rounds=9,
        masks=ones,
    )
    dense = mask_gradients(double, SEQUENCES, ignore_steps)
    assert all(map(torch.allclose, in_rounds, dense))
    assert {step.total for step in steps} == {3}
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == 3


def test_the_model_is_left_unchanged_also_after_a_cancellation(double):
    def cancel(step):
        raise Cancelled

    before = loss(double, SEQUENCES[0])
    mask_gradients(double, SEQUENCES, ignore_steps)
    with pytest.raises(Cancelled):
        mask_gradients(double, SEQUENCES, cancel)
    assert loss(double, SEQUENCES[0]) == before
    assert all("forward" not in vars(block) for block in double.blocks)
    assert all(parameter.grad is None for parameter in double.model.parameters())
