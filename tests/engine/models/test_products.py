"""Products of bfloat16 numbers by way of single precision: the same numbers, only where it is
faster and allowed.
"""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from sparsedash.engine.calibration.gradients import mask_gradients
from sparsedash.engine.models import matmul
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.engine.models.matmul import (
    bf16_matmul_in_fp32,
    keep_fp32_copies,
    use_fp32_copies_for_small_batches,
)
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
    return nn.functional.linear(
        inputs.double(), weight.double(), None if bias is None else bias.double()
    ).bfloat16()


def is_rounded_alike(found, expected):
    """Whether they are the same but for a last digit, where another order of summing moved a number
    over an edge.
    """
    apart = (found.double() - expected.double()).abs()
    return found.dtype == expected.dtype and bool(
        (apart <= 2**-7 * expected.double().abs() + 2**-14).all()
    )


PRODUCTS = {
    "linear": lambda inputs, weight, bias: nn.functional.linear(inputs, weight, bias),
    "of gpt-2": lambda inputs, weight, bias: torch.addmm(bias, inputs, weight.t()),
}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize("piece", [1, 1000, 2**22])
def test_a_product_is_that_of_double_precision_rounded_once_however_it_is_cut(
    faster, monkeypatch, product, piece
):
    monkeypatch.setattr(matmul, "_PIECE", piece)
    inputs, weight, bias = drawn(N_TOKENS, 64), drawn(96, 64, seed=1), drawn(96, seed=2)
    with bf16_matmul_in_fp32("bfloat16"):
        found = product(inputs, weight, bias)
    assert is_rounded_alike(found, wide(inputs, weight, bias))


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize("learns", [(True, True, True), (False, True, False)])
def test_weights_that_learn_get_the_gradient_of_double_precision(faster, product, learns):
    values = drawn(N_TOKENS, 64), drawn(96, 64, seed=1), drawn(96, seed=2)
    by_way, exact = (
        [own.detach().to(dtype) for own in values] for dtype in (torch.bfloat16, torch.float64)
    )
    for own, mode in ((by_way, bf16_matmul_in_fp32("bfloat16")), (exact, nullcontext())):
        for part, does in zip(own, learns, strict=True):
            part.requires_grad_(does)
        with mode:
            product(*own).backward(drawn(N_TOKENS, 96, seed=3).to(own[0].dtype))
    for found, expected in zip(by_way, exact, strict=True):
        assert (found.grad is None) == (expected.grad is None)
        assert found.grad is None or is_rounded_alike(found.grad, expected.grad.bfloat16())


@pytest.mark.parametrize(
    ("dtype", "is_faster"), [("float32", True), ("bfloat16", True), ("bfloat16", False)]
)
def test_nothing_changes_for_single_precision_and_where_bfloat16_is_as_fast(
    monkeypatch, dtype, is_faster
):
    calls, inputs, weight = counted(monkeypatch), drawn(N_TOKENS, 64), drawn(96, 64, seed=1)
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: is_faster)
    with bf16_matmul_in_fp32(dtype):
        nn.functional.linear(inputs.float(), weight.float())
        assert not calls
        nn.functional.linear(inputs, weight)
    assert len(calls) == (dtype == "bfloat16" and is_faster)


def counted(monkeypatch):
    calls, real = [], matmul._product
    monkeypatch.setattr(matmul, "_product", lambda *args: calls.append(args) or real(*args))
    return calls


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "bloom", "gptj"])
def test_all_projections_of_a_model_go_that_way_with_nearly_the_same_logits(
    faster, monkeypatch, model_type
):
    model = tiny_model(model_type).bfloat16().eval().requires_grad_(False)
    ids = torch.randint(1, 400, (8, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model(ids).logits.float()
        calls = counted(monkeypatch)
        with bf16_matmul_in_fp32("bfloat16"):
            found = model(ids).logits.float()
    assert len(calls) >= 4 * model.config.num_hidden_layers
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def layer(bias=True):
    own = nn.Linear(64, 96, bias=bias).bfloat16().requires_grad_(False)
    own.weight.copy_(drawn(96, 64, seed=1))
    return own


@pytest.mark.parametrize(
    ("n_tokens", "few", "copied", "n_products", "n_by_copy"),
    [
        (1, True, True, 0, 0),
        (matmul._ROWS_BY_COPY, True, True, 1, 1),
        (matmul._ROWS_BY_COPY, True, False, 0, 0),
        # Those of answers: a model in its files has no copies, and is to give the same.
        (matmul._ROWS_BY_COPY, False, True, 0, 0),
        (matmul._ROWS - 1, False, True, 0, 0),
        (N_TOKENS, False, True, 1, 1),
        (N_TOKENS, False, False, 1, 0),
    ],
)
def test_a_copy_serves_few_inputs_only_where_it_may(
    faster, monkeypatch, n_tokens, few, copied, n_products, n_by_copy
):
    calls, own, inputs = counted(monkeypatch), layer(), drawn(n_tokens, 64)
    with bf16_matmul_in_fp32("bfloat16"):
        if copied:
            keep_fp32_copies(own)
        with use_fp32_copies_for_small_batches() if few else nullcontext():
            found = own(inputs)
    assert (len(calls), sum(len(call) > 3 for call in calls)) == (n_products, n_by_copy)
    assert is_rounded_alike(found, wide(inputs, own.weight, own.bias))


@pytest.mark.parametrize("piece", [1000, 2**22])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("room", [2**20, 4 * 96 * 64 - 1, -1])
def test_answers_are_the_same_by_a_copy_as_without_one(faster, monkeypatch, bias, piece, room):
    """Whether a model is in memory or in its files is no part of what results are stored by."""
    monkeypatch.setattr(matmul, "_PIECE", piece)
    calls, own, inputs, found = counted(monkeypatch), layer(bias), drawn(N_TOKENS, 64), []
    with bf16_matmul_in_fp32("bfloat16"):
        found.append(own(inputs))
        keep_fp32_copies(own, room)
        found.append(own(inputs))
    assert torch.equal(*found)
    assert [len(call) > 3 for call in calls] == [False, room == 2**20]


def test_other_weights_in_the_place_of_the_first_are_multiplied_by_and_not_by_its_copy(faster):
    own, inputs = layer(), drawn(N_TOKENS, 64)
    before = own.weight
    with bf16_matmul_in_fp32("bfloat16"):
        keep_fp32_copies(own)
        first = own(inputs)
        own.weight = nn.Parameter(drawn(96, 64, seed=9), requires_grad=False)
        assert is_rounded_alike(own(inputs), wide(inputs, own.weight, own.bias))
        own.weight = before
        assert torch.equal(own(inputs), first)


@pytest.mark.parametrize(
    ("single", "is_faster"), [(1.0, True), (1.9, False), (2.1, False), (1.5, True)]
)
def test_single_precision_must_be_clearly_faster(monkeypatch, single, is_faster):
    monkeypatch.setattr(
        matmul, "_seconds", lambda factor: single if factor.dtype == torch.float32 else 2.0
    )
    matmul.float32_is_faster.cache_clear()
    assert matmul.float32_is_faster() is is_faster
    matmul.float32_is_faster.cache_clear()


def test_blocks_that_run_again_on_the_way_back_are_multiplied_as_on_the_way_there(
    faster, monkeypatch, tmp_path, store
):
    """Where one way is not the other, torch finds other tensors than it kept, and the backward pass
    fails.
    """
    loaded = load_model(locate_model(str(save_tiny(tmp_path / "model")), store), "bfloat16")
    ids = torch.randint(1, 400, (16, 40), generator=torch.Generator().manual_seed(2)).tolist()
    expected = mask_gradients(loaded, ids, ignore_steps)
    calls = counted(monkeypatch)
    with bf16_matmul_in_fp32("bfloat16"):
        found = mask_gradients(loaded, ids, ignore_steps)
    assert calls
    for own, other in zip(found, expected, strict=True):
        assert (own - other).norm() < 0.1 * other.norm()
