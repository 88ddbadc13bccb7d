"""The mask's gradients agree with finite differences of the loss."""

import pytest
import torch

from sparsedash.engine.calibration.gradients import mask_gradients
from sparsedash.schema.errors import Cancelled
from sparsedash.schema.progress import ignore_steps
from tests.engine.tiny import tiny_loaded

# Wide enough for the parts of some families that compute in float32 whatever the model is in.
STEP = 1e-2
SEQUENCES = [[5, 9, 3, 7], [8, 2, 6, 4, 1, 3], [3, 3]]
LONG = [7, 3, 9, 1, 5, 5, 2, 8, 4, 6, 3, 1]


@pytest.fixture(scope="module", params=["llama", "gpt2", "opt", "bloom"])
def double(request):
    """A tiny model in float64, where differences are sharp."""
    loaded = tiny_loaded(request.param)
    loaded.model.double()
    return loaded


def loss(loaded, ids, block=0, channel=0, mask=1.0, change=None):
    """Mean next-token loss with one channel scaled, or with the out-projection changed."""

    def scale(_, inputs):
        x = inputs[0].clone()
        x[..., channel] *= mask
        return (x,)

    out = loaded.mlps[block].out
    handles = [out.register_forward_pre_hook(scale)]
    if change is not None:
        handles.append(out.register_forward_hook(lambda _, inputs, y: y + inputs[0] @ change.T))
    tokens = torch.tensor([ids])
    logits = loaded.model(tokens).logits[0, :-1]
    value = torch.nn.functional.cross_entropy(logits, tokens[0, 1:])
    for handle in handles:
        handle.remove()
    return float(value)


@pytest.mark.parametrize(("block", "channel"), [(0, 3), (1, 17), (2, 90)])
def test_mask_gradients_equal_finite_differences(double, block, channel):
    found = mask_gradients(double, SEQUENCES, ignore_steps)[block]
    assert found.shape == (len(SEQUENCES), double.mlps[block].width)
    for row, ids in enumerate(SEQUENCES):
        above, below = (loss(double, ids, block, channel, 1 + step) for step in (STEP, -STEP))
        assert float(found[row, channel]) == pytest.approx(
            (above - below) / (2 * STEP), rel=5e-3, abs=1e-6
        )


def test_rounds_read_the_sequences_in_order_each_with_the_masks_of_those_before(double):
    """Two rounds: the dense model reads two sequences, then channel 3 of the first block is
    masked.
    """
    asked = []

    def masks(done, so_far, on_block):
        on_block(1, 2)
        asked.append((done, [own.clone() for own in so_far]))
        masked = [torch.ones(mlp.width) for mlp in double.mlps]
        masked[0][3] = 0
        return masked

    sequences = [*SEQUENCES, LONG]
    found = mask_gradients(double, sequences, ignore_steps, n_rounds=2, masks=masks)
    dense = mask_gradients(double, sequences, ignore_steps)
    ((done, so_far),) = asked
    assert done == 1 / 2
    for own, usual, first in zip(found, dense, so_far, strict=True):
        assert torch.equal(own[:2], usual[:2])
        assert torch.equal(own[:2], first)
        assert not torch.allclose(own[3], usual[3])
    # The mask's own derivative, at 0: the channel may come back.
    above, below = (loss(double, LONG, 0, 3, sign * STEP) for sign in (1, -1))
    assert float(found[0][3, 3]) == pytest.approx((above - below) / (2 * STEP), rel=5e-3, abs=1e-6)


def test_rounds_are_as_many_as_sequences_at_most_and_tell_their_steps_as_parts_of_one_whole(double):
    steps = []
    found = mask_gradients(
        double, SEQUENCES, steps.append, n_rounds=9, masks=lambda *_: ones(double)
    )
    assert all(map(torch.allclose, found, mask_gradients(double, SEQUENCES, ignore_steps)))
    assert {step.total for step in steps} == {3}
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == 3


def ones(loaded):
    return [torch.ones(mlp.width) for mlp in loaded.mlps]


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(double, fails):
    before = loss(double, SEQUENCES[0])
    mask_gradients(double, SEQUENCES, ignore_steps)
    if fails:
        with pytest.raises(Cancelled):
            mask_gradients(double, SEQUENCES, cancelled)
    assert loss(double, SEQUENCES[0]) == before
    assert all("forward" not in vars(block) for block in double.blocks)
    assert all(parameter.grad is None for parameter in double.model.parameters())


def cancelled(step):
    raise Cancelled
