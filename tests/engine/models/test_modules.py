"""For every family: taking channels out gives the same logits as setting them to zero."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from sparsedash.catalog.families import FAMILIES
from sparsedash.engine.pruning.surgery import PrunedMlp, inner_weights, out_weight, pruned
from tests.engine.tiny import CONFIGS, as_loaded, tiny_model

EXACT = 1e-5


def _ids(seed=1):
    return torch.randint(1, 400, (2, 12), generator=torch.Generator().manual_seed(seed))


def _kept(width, n_kept, seed):
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    return order[:n_kept].sort().values


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_narrowing_gives_the_same_logits_as_masking(model_type):
    model = tiny_model(model_type)
    mlps = as_loaded(model).mlps
    ids = _ids()
    dense = model(ids).logits
    hidden = model.config.hidden_size
    assert set(FAMILIES) == set(CONFIGS) and len(mlps) == 3
    assert {(mlp.width, *out_weight(mlp).shape) for mlp in mlps} == {(96, hidden, 96)}
    assert {tuple(weight.shape) for mlp in mlps for weight in inner_weights(mlp)} == {(96, hidden)}
    kept = [_kept(mlp.width, mlp.width * 2 // 3, i) for i, mlp in enumerate(mlps)]

    shared = [
        own.data_ptr()
        for mlp in mlps
        for module in (*mlp.inner, mlp.out)
        for own in module.parameters()
    ]
    with pruned(mlps, [PrunedMlp(torch.arange(96), out_weight(mlp)) for mlp in mlps]):
        now = [
            own.data_ptr()
            for mlp in mlps
            for module in (*mlp.inner, mlp.out)
            for own in module.parameters()
        ]
        assert now == shared, "what keeps all its channels is not copied"
        assert torch.equal(model(ids).logits, dense)
    with pruned(mlps, [PrunedMlp(k, out_weight(m)[:, k]) for m, k in zip(mlps, kept, strict=True)]):
        narrowed = model(ids).logits
        assert [mlp.width for mlp in mlps] == [len(k) for k in kept]
    hooks = [_mask_channels(mlp, k) for mlp, k in zip(mlps, kept, strict=True)]
    masked = model(ids).logits
    for hook in hooks:
        hook.remove()

    assert (narrowed - masked).abs().max() <= EXACT
    assert (narrowed - dense).abs().max() > 100 * EXACT, "the channels taken out made no difference"
    # The dense model comes back, also after an error.
    with (
        pytest.raises(ValueError),
        pruned(mlps, [PrunedMlp(kept[0], out_weight(mlps[0])[:, kept[0]])]),
    ):
        pass
    assert torch.equal(model(ids).logits, dense)


@pytest.mark.parametrize("model_type", ["llama", "phi3", "opt"])
def test_weights_on_another_device_are_narrowed_there(model_type):
    """On fake tensors that say they are on a GPU; real ones refuse what is chosen by indices from
    elsewhere as these do.
    """
    model = tiny_model(model_type)
    mlps = as_loaded(model).mlps
    made = [PrunedMlp(torch.arange(8), out_weight(mlp)[:, :8].clone()) for mlp in mlps]
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for module in (module for mlp in mlps for module in (*mlp.inner, mlp.out)):
        for name, values in list(module.named_parameters(recurse=False)):
            fake = FakeTensor(mode, values.detach().to("meta"), torch.device("cuda:0"))
            setattr(module, name, torch.nn.Parameter(fake, requires_grad=False))
    with mode, pruned(mlps, made):
        for mlp in mlps:
            assert mlp.width == 8
            weights = [out_weight(mlp), *inner_weights(mlp)]
            assert {weight.device.type for weight in weights} == {"cuda"}


def _mask_channels(mlp, kept):
    mask = torch.zeros(mlp.width)
    mask[kept] = 1
    return mlp.out.register_forward_pre_hook(lambda _, inputs: (inputs[0] * mask,))
