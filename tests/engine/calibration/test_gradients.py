"""The mask's gradients agree with finite differences of the loss."""

import pytest
import torch

from sparsedash.engine.calibration.gradients import N_LATE, mask_gradients, output_gradients, sensitivities
from sparsedash.engine.pruning.surgery import out_weight
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
        assert float(found[row, channel]) == pytest.approx((above - below) / (2 * STEP), rel=5e-3, abs=1e-6)


def test_rounds_read_the_sequences_in_order_each_with_the_masks_of_those_before(double):
    """Two rounds: the dense model reads two sequences, then channel 3 of the first block is masked."""
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
    found = mask_gradients(double, SEQUENCES, steps.append, n_rounds=9, masks=lambda *_: ones(double))
    assert all(map(torch.allclose, found, mask_gradients(double, SEQUENCES, ignore_steps)))
    assert {step.total for step in steps} == {3}
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == 3


def ones(loaded):
    return [torch.ones(mlp.width) for mlp in loaded.mlps]


def late_loss(loaded, ids, block, change, token, sign):
    """Summed loss of the last predictions with the out-projection and its bias changed at one token only."""
    weight, bias = change

    def add(_, inputs, output):
        output = output.clone()
        moved = weight @ inputs[0].view(len(ids), -1)[token] + bias
        output.view(len(ids), -1)[token] += sign * moved
        return output

    handle = loaded.mlps[block].out.register_forward_hook(add)
    tokens = torch.tensor([ids])
    logits = loaded.model(tokens).logits[0, :-1][-N_LATE:]
    handle.remove()
    targets = tokens[0, 1:][-N_LATE:]
    return float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))


def test_a_sensitivity_is_the_squared_change_of_the_late_loss_token_by_token(double):
    weights = [1e-4 * torch.randn_like(out_weight(mlp)) for mlp in double.mlps]
    changes = [(weight, 1e-4 * torch.randn_like(weight[:, 0])) for weight in weights]
    single = [(weight.float(), bias.float()) for weight, bias in changes]
    found = sensitivities(double, [LONG], single, ignore_steps)
    for block, change in enumerate(changes):
        moved = [
            late_loss(double, LONG, block, change, token, 1) - late_loss(double, LONG, block, change, token, -1)
            for token in range(len(LONG))
        ]
        assert found[block] == pytest.approx(sum((m / 2) ** 2 for m in moved), rel=1e-2)


@pytest.mark.parametrize(("block", "token"), [(0, 3), (1, 0), (2, 8)])
def test_output_gradients_equal_finite_differences_of_the_loss(double, block, token):
    found, tokens = output_gradients(double, [LONG], ignore_steps)[block], torch.tensor([LONG])
    assert found.shape == (len(LONG), out_weight(double.mlps[block]).shape[0])

    def judged(shift):
        def add(_, inputs, output):
            output = output.clone()
            output.view(len(LONG), -1)[token, 5] += shift
            return output

        handle = double.mlps[block].out.register_forward_hook(add)
        logits = double.model(tokens).logits[0, :-1]
        handle.remove()
        return float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))

    slope = (judged(STEP) - judged(-STEP)) / (2 * STEP)
    assert float(found[token, 5]) == pytest.approx(slope, rel=1e-2, abs=1e-5)


def test_sensitivities_keep_no_activations_of_the_inner_width_for_the_way_back(double):
    """Those would take most of the memory of `best`; see what the Fisher information keeps beside it."""
    width, changes = double.mlps[0].width, no_changes(double)
    weights = {weight.data_ptr() for weight in double.model.parameters()}

    def kept_by(function, *arguments):
        shapes = []

        def keep(tensor):
            if tensor.data_ptr() not in weights:
                shapes.append(tensor.shape[-1:])
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            function(double, [LONG], *arguments, ignore_steps)
        return shapes

    assert (width,) in kept_by(mask_gradients)
    assert (width,) not in kept_by(sensitivities, changes)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(double, fails):
    before = loss(double, SEQUENCES[0])
    changes = no_changes(double)
    mask_gradients(double, SEQUENCES, ignore_steps)
    sensitivities(double, SEQUENCES, changes, ignore_steps)
    if fails:
        with pytest.raises(Cancelled):
            sensitivities(double, SEQUENCES, changes, cancelled)
    assert loss(double, SEQUENCES[0]) == before
    assert all("forward" not in vars(block) for block in double.blocks)
    assert all(parameter.grad is None for parameter in double.model.parameters())


def no_changes(loaded):
    shapes = [out_weight(mlp).shape for mlp in loaded.mlps]
    return [(torch.zeros(shape), torch.zeros(shape[0])) for shape in shapes]


def cancelled(step):
    raise Cancelled
