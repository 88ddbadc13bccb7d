"""For every family: removing channels gives the same logits as setting them to zero."""

from contextlib import ExitStack
from itertools import chain

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from sparsedash.engine.pruning.surgery import (
    PrunedMlp,
    inner_weights,
    out_weight,
    pruned,
)
from tests.engine.tiny import CONFIGS, IDS, as_loaded, seeded, tiny_model

EXACT = 1e-5


def projections(mlps):
    return list(chain.from_iterable((*mlp.inner, mlp.out) for mlp in mlps))


def addresses(mlps):
    parameters = chain.from_iterable(
        module.parameters() for module in projections(mlps)
    )
    return [parameter.data_ptr() for parameter in parameters]


def narrow(mlp, kept):
    return PrunedMlp(kept, out_weight(mlp)[:, kept])


def masked(mlp, kept):
    """Set all other channels to zero. Returns the handle of the hook."""
    mask = torch.zeros(mlp.width)
    mask[kept] = 1
    return mlp.out.register_forward_pre_hook(lambda _, inputs: (inputs[0] * mask,))


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_narrowing_gives_the_same_logits_as_masking(model_type):
    model = tiny_model(model_type)
    mlps = as_loaded(model).mlps
    hidden = model.config.hidden_size
    assert [out_weight(mlp).shape for mlp in mlps] == [(hidden, 96)] * 3
    inner = chain.from_iterable(map(inner_weights, mlps))
    assert {tuple(weight.shape) for weight in inner} == {(96, hidden)}
    dense = model(IDS).logits
    shared = addresses(mlps)
    with pruned(mlps, [narrow(mlp, torch.arange(96)) for mlp in mlps]):
        assert torch.equal(model(IDS).logits, dense)
    with pruned(mlps, [PrunedMlp(torch.arange(96), out_weight(mlp)) for mlp in mlps]):
        assert addresses(mlps) == shared, "what keeps all its channels is not copied"
    kept = []
    for seed in range(3):
        order = torch.randperm(96, generator=seeded(seed))
        kept.append(order[:64].sort().values)
    with pruned(mlps, list(map(narrow, mlps, kept))):
        narrowed = model(IDS).logits
        assert [mlp.width for mlp in mlps] == [64] * 3
    with ExitStack() as hooks:
        for mlp, channels in zip(mlps, kept, strict=True):
            hooks.enter_context(masked(mlp, channels))
        expected = model(IDS).logits
    assert (narrowed - expected).abs().max() <= EXACT
    assert (narrowed - dense).abs().max() > 100 * EXACT, (
        "the channels made no difference"
    )
    # The dense model comes back, also after an error.
    with pytest.raises(ValueError), pruned(mlps, [narrow(mlps[0], kept[0])]):
        pass
    assert torch.equal(model(IDS).logits, dense)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "opt"])
def test_weights_on_another_device_are_narrowed_there(model_type):
    """On fake tensors that claim to be on a GPU: as real ones, they refuse indices elsewhere."""
    mlps = as_loaded(tiny_model(model_type)).mlps
    narrowed = [
        PrunedMlp(torch.arange(8), out_weight(mlp)[:, :8].clone()) for mlp in mlps
    ]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for module in projections(mlps):
        for name, values in list(module.named_parameters(recurse=False)):
            fake = FakeTensor(mode, values.detach().to("meta"), torch.device("cuda:0"))
            setattr(module, name, torch.nn.Parameter(fake, requires_grad=False))
    with mode, pruned(mlps, narrowed):
        for mlp in mlps:
            assert mlp.width == 8
            weights = [out_weight(mlp), *inner_weights(mlp)]
            assert {weight.device.type for weight in weights} == {"cuda"}
