"""Products of bfloat16 numbers by way of single precision: the same numbers, only where it is faster and allowed."""

import pytest
import torch
from torch import nn

from sparsedash.engine.calibration.gradients import sensitivities
from sparsedash.engine.models import matmul
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.engine.models.matmul import bfloat16_units, fastest_products, few_inputs_by_copy, widen_once
from sparsedash.schema.progress import ignore_steps
from tests.engine.tiny import save_tiny, tiny_model

N_TOKENS = 256


@pytest.fixture
def faster(monkeypatch):
    """As on a machine whose single precision is faster."""
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: True)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def wide(inputs, weight, bias=None):
    """The product, rounded once."""
    return nn.functional.linear(inputs.double(), weight.double(), None if bias is None else bias.double()).bfloat16()


def is_rounded_alike(found, expected):
    """Whether they are the same but for a last digit, where another order of summing moved a number over an edge."""
    apart = (found.double() - expected.double()).abs()
    return found.dtype == expected.dtype and bool((apart <= 2**-7 * expected.double().abs() + 2**-14).all())


@pytest.mark.parametrize("bias", [None, drawn(96, seed=2)])
@pytest.mark.parametrize("piece", [1, 1000, 2**22])
def test_a_product_is_that_of_double_precision_rounded_once_however_it_is_cut(faster, monkeypatch, bias, piece):
    monkeypatch.setattr(matmul, "_PIECE", piece)
    inputs, weight = drawn(2, N_TOKENS, 64), drawn(96, 64, seed=1)
    with fastest_products("bfloat16"):
        found = nn.functional.linear(inputs, weight, bias)
    assert is_rounded_alike(found, wide(inputs, weight, bias))


def test_the_layer_of_gpt_2_is_multiplied_so_as_well(faster):
    inputs, weight, bias = drawn(N_TOKENS, 64), drawn(64, 96, seed=1), drawn(96, seed=2)
    with fastest_products("bfloat16"):
        found = torch.addmm(bias, inputs, weight)
    assert is_rounded_alike(found, wide(inputs, weight.t(), bias))


def test_the_gradient_of_the_inputs_is_that_of_an_ordinary_product(faster):
    weight, found = drawn(96, 64, seed=1), []
    for dtype in ("float32", "bfloat16"):
        inputs = drawn(1, N_TOKENS, 64).requires_grad_()
        with fastest_products(dtype):
            nn.functional.linear(inputs, weight).float().square().sum().backward()
        found.append(inputs.grad)
    assert torch.allclose(found[0].float(), found[1].float(), rtol=0.02, atol=0.05 * float(found[0].abs().max()))


def counted(monkeypatch):
    calls, real = [], matmul._product
    monkeypatch.setattr(matmul, "_product", lambda *args: calls.append(args) or real(*args))
    return calls


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "bloom", "gptj"])
def test_all_projections_of_a_model_go_that_way_with_nearly_the_same_logits(faster, monkeypatch, model_type):
    model = tiny_model(model_type).bfloat16().eval().requires_grad_(False)
    ids = torch.randint(1, 400, (8, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(ids).logits.float()
        calls = counted(monkeypatch)
        with fastest_products("bfloat16"):
            found = model(ids).logits.float()
    assert len(calls) >= 4 * model.config.num_hidden_layers
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.fixture
def widened(monkeypatch):
    """The weights that were widened as a whole."""
    found, real = [], torch.Tensor.float

    def heard(tensor):
        if tensor.shape in ((96, 64), (64, 48)):
            found.append(tensor.shape)
        return real(tensor)

    monkeypatch.setattr(torch.Tensor, "float", heard)
    return found


def layer():
    own = nn.Linear(64, 96).bfloat16().requires_grad_(False)
    own.weight.copy_(drawn(96, 64, seed=1))
    return own


@pytest.mark.parametrize("n_tokens", [matmul._ROWS_BY_COPY, N_TOKENS])
def test_a_weight_in_memory_is_widened_once_and_multiplied_alike(faster, monkeypatch, widened, n_tokens):
    own, inputs = layer(), drawn(n_tokens, 64)
    with fastest_products("bfloat16"):
        widen_once(own)
        with few_inputs_by_copy():
            found = [own(inputs) for _ in range(3)]
    assert len(widened) == 1
    for each in found:
        assert is_rounded_alike(each, wide(inputs, own.weight, own.bias))


def test_so_is_that_of_gpt_2(faster, monkeypatch, widened):
    inputs, bias = drawn(N_TOKENS, 64), drawn(48, seed=2)
    weight = nn.Parameter(drawn(64, 48, seed=1), requires_grad=False)
    with fastest_products("bfloat16"):
        widen_once(layer())
        found = [torch.addmm(bias, inputs, weight) for _ in range(3)]
    assert len(widened) == 1
    assert all(is_rounded_alike(each, wide(inputs, weight.t(), bias)) for each in found)


@pytest.mark.parametrize("n_tokens", [1, matmul._ROWS_BY_COPY, N_TOKENS])
@pytest.mark.parametrize("piece", [1000, 2**22])
@pytest.mark.parametrize("bias", [False, True])
def test_answers_are_the_same_by_a_copy_as_without_one(faster, monkeypatch, bias, piece, n_tokens):
    """Whether a model is in memory or in its files is no part of what results are stored by."""
    monkeypatch.setattr(matmul, "_PIECE", piece)
    own, inputs = nn.Linear(64, 96, bias=bias).bfloat16().requires_grad_(False), drawn(n_tokens, 64)
    found = []
    with fastest_products("bfloat16"):
        found.append(own(inputs))
        widen_once(own)
        found.append(own(inputs))
    assert torch.equal(*found)


def test_a_copy_goes_with_its_weight_and_makes_room_for_another(faster, widened):
    first, inputs = layer(), drawn(N_TOKENS, 64)
    with fastest_products("bfloat16"):
        widen_once(first, 4 * sum(own.numel() for own in first.parameters()))
        first(inputs)
        second = layer()
        for _ in range(2):
            second(inputs)
        assert len(widened) == 1
        del first
        for _ in range(2):
            second(inputs)
        assert len(widened) == 2


def test_other_weights_in_the_place_of_the_first_are_multiplied_by_and_not_by_its_copy(faster):
    own, inputs = layer(), drawn(N_TOKENS, 64)
    before = own.weight
    with fastest_products("bfloat16"):
        widen_once(own)
        first = own(inputs)
        own.weight = nn.Parameter(drawn(96, 64, seed=9), requires_grad=False)
        assert is_rounded_alike(own(inputs), wide(inputs, own.weight, own.bias))
        own.weight = before
        assert torch.equal(own(inputs), first)


@pytest.mark.parametrize("room", [-1, 0, 4 * 6239])
def test_what_has_no_room_is_not_kept(faster, widened, room):
    """96 x 64 weights and 96 of the bias are 6,240."""
    own, inputs = layer(), drawn(N_TOKENS, 64)
    with fastest_products("bfloat16"):
        widen_once(own, room)
        own(inputs)
    assert not widened


def test_what_is_cut_out_of_a_weight_is_not_kept(faster, monkeypatch):
    kept, own, inputs = [], layer(), drawn(N_TOKENS, 64)
    real = matmul._product
    monkeypatch.setattr(matmul, "_product", lambda *args: kept.extend(args[3:]) or real(*args))
    with fastest_products("bfloat16"):
        widen_once(own)
        found = nn.functional.linear(inputs, own.weight[:50])
    assert not kept
    assert is_rounded_alike(found, wide(inputs, own.weight[:50]))


def test_where_bfloat16_is_as_fast_and_outside_nothing_is_kept(monkeypatch, widened):
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: False)
    own, inputs = layer(), drawn(N_TOKENS, 64)
    widen_once(own)
    own(inputs)
    with fastest_products("bfloat16"):
        widen_once(own)
        own(inputs)
    assert not widened


@pytest.mark.parametrize("n_tokens", [1, matmul._ROWS - 1])
@pytest.mark.parametrize("copied", [False, True])
def test_few_tokens_are_multiplied_as_they_are(faster, monkeypatch, n_tokens, copied):
    """Those of answers also where there is a copy, which a model in its files has not."""
    calls, own, inputs = counted(monkeypatch), layer(), drawn(n_tokens, 64)
    with fastest_products("bfloat16"):
        if copied:
            widen_once(own)
        assert torch.equal(nn.functional.linear(inputs, own.weight), inputs @ own.weight.t())
    assert not calls


def test_nothing_changes_for_single_precision_for_weights_that_learn_and_where_bfloat16_is_as_fast(monkeypatch):
    calls = counted(monkeypatch)
    inputs, weight = drawn(N_TOKENS, 64), drawn(96, 64, seed=1)
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: True)
    with fastest_products("float32"):
        nn.functional.linear(inputs, weight)
    with fastest_products("bfloat16"):
        nn.functional.linear(inputs.float(), weight.float())
        nn.functional.linear(inputs, weight.clone().requires_grad_())
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: False)
    with fastest_products("bfloat16"):
        nn.functional.linear(inputs, weight)
    assert not calls


@pytest.mark.parametrize(("of_float32", "is_faster"), [(1.0, True), (1.9, False), (2.1, False), (1.5, True)])
def test_single_precision_must_be_clearly_faster(monkeypatch, of_float32, is_faster):
    matmul.float32_is_faster.cache_clear()
    monkeypatch.setattr(matmul, "_seconds", lambda left, _: of_float32 if left.dtype == torch.float32 else 2.0)
    assert matmul.float32_is_faster() is is_faster
    matmul.float32_is_faster.cache_clear()


def precision():
    return torch.backends.mkldnn.matmul.fp32_precision


@pytest.mark.parametrize(("by_units", "are_faster"), [(1.0, True), (1.9, False), (2.1, False), (1.5, True)])
def test_units_for_bfloat16_must_be_clearly_faster_as_well(monkeypatch, by_units, are_faster):
    matmul.units_are_faster.cache_clear()
    before = precision()
    monkeypatch.setattr(matmul, "_seconds", lambda *_: by_units if precision() == "bf16" else 2.0)
    assert matmul.units_are_faster() is are_faster
    assert precision() == before
    matmul.units_are_faster.cache_clear()


@pytest.mark.parametrize(("are_faster", "inside"), [(True, "bf16"), (False, precision())])
def test_they_are_used_inside_only_whatever_happens_there(monkeypatch, are_faster, inside):
    monkeypatch.setattr(matmul, "units_are_faster", lambda: are_faster)
    before = precision()
    with pytest.raises(KeyError), bfloat16_units():
        assert precision() == inside
        raise KeyError
    assert precision() == before


def test_a_product_of_bfloat16_numbers_is_the_same_by_units_for_them(monkeypatch):
    """Whether this machine has any or not: the order of the sum may differ, and nothing is rounded before its end."""
    monkeypatch.setattr(matmul, "units_are_faster", lambda: True)
    factor = drawn(512, 256).float()
    with bfloat16_units():
        found = factor.T @ factor
    expected = factor.double().T @ factor.double()
    assert (found.double() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_blocks_that_run_again_on_the_way_back_are_multiplied_as_on_the_way_there(faster, monkeypatch, tmp_path, store):
    """Where one way is not the other, torch finds other tensors than it kept, and the backward pass fails."""
    loaded = load_model(locate_model(str(save_tiny(tmp_path / "model")), store), "bfloat16")
    ids = torch.randint(1, 400, (16, 40), generator=torch.Generator().manual_seed(2)).tolist()
    hidden = loaded.model.config.hidden_size
    changes = [(torch.ones(hidden, mlp.width), torch.zeros(hidden)) for mlp in loaded.mlps]
    expected = sensitivities(loaded, ids, changes, ignore_steps)
    calls = counted(monkeypatch)
    with fastest_products("bfloat16"):
        found = sensitivities(loaded, ids, changes, ignore_steps)
    assert calls
    assert found == pytest.approx(expected, rel=0.1)
