"""Bfloat16 products in float32: the same numbers, only where that is faster and allowed."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from sparsedash.engine.calibration.gradients import mask_gradients
from sparsedash.engine.models import matmul
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.models.matmul import (
    bf16_matmul_in_fp32,
    keep_fp32_copies,
    use_fp32_copies_for_small_batches,
)
from sparsedash.schema.progress import ignore_steps
from tests.engine.tiny import save_tiny, seeded, tiny_model

N_TOKENS = 256


@pytest.fixture
def faster(monkeypatch):
    """As on a machine whose float32 is faster."""
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: True)


@pytest.fixture
def products(monkeypatch):
    """The arguments of every product in float32, as the list grows."""
    calls = []
    linear = matmul._linear
    monkeypatch.setattr(
        matmul, "_linear", lambda *args: calls.append(args) or linear(*args)
    )
    return calls


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed)).bfloat16()


def layer(bias=True):
    module = nn.Linear(64, 96, bias=bias).bfloat16().requires_grad_(False)
    module.weight.copy_(drawn(96, 64, seed=1))
    return module


def rounded_once(inputs, weight, bias=None):
    wide_bias = None if bias is None else bias.double()
    return nn.functional.linear(inputs.double(), weight.double(), wide_bias).bfloat16()


def is_rounded_alike(product, expected):
    """Equal but for a last digit, which another order of the sum may change."""
    error = (product.double() - expected.double()).abs()
    allowed = 2**-7 * expected.double().abs() + 2**-14
    return product.dtype == expected.dtype and bool((error <= allowed).all())


def conv1d(inputs, weight, bias):
    return torch.addmm(bias, inputs, weight.t())


@pytest.mark.parametrize("product", [nn.functional.linear, conv1d])
@pytest.mark.parametrize("chunk", [1, 1000, 2**22])
def test_a_product_is_that_of_double_precision_rounded_once_in_chunks_of_any_size(
    faster, monkeypatch, product, chunk
):
    monkeypatch.setattr(matmul, "_CHUNK", chunk)
    operands = drawn(N_TOKENS, 64), drawn(96, 64, seed=1), drawn(96, seed=2)
    with bf16_matmul_in_fp32("bfloat16"):
        result = product(*operands)
    assert is_rounded_alike(result, rounded_once(*operands))


@pytest.mark.parametrize("product", [nn.functional.linear, conv1d])
@pytest.mark.parametrize("learns", [(True, True, True), (False, True, False)])
def test_gradients_are_those_of_double_precision(faster, product, learns):
    operands = drawn(N_TOKENS, 64), drawn(96, 64, seed=1), drawn(96, seed=2)

    def gradients(dtype):
        copies = []
        for operand, requires_grad in zip(operands, learns, strict=True):
            copies.append(
                operand.detach().to(dtype, copy=True).requires_grad_(requires_grad)
            )
        with bf16_matmul_in_fp32("bfloat16"):
            product(*copies).backward(drawn(N_TOKENS, 96, seed=3).to(dtype))
        return [copy.grad for copy in copies]

    for gradient, exact in zip(
        gradients(torch.bfloat16),
        gradients(torch.float64),
        strict=True,
    ):
        assert (gradient is None) == (exact is None)
        assert gradient is None or is_rounded_alike(gradient, exact.bfloat16())


@pytest.mark.parametrize(
    ("dtype", "is_faster"), [("float32", True), ("bfloat16", True), ("bfloat16", False)]
)
def test_nothing_changes_in_float32_or_where_bfloat16_is_as_fast(
    monkeypatch, products, dtype, is_faster
):
    inputs = drawn(N_TOKENS, 64)
    monkeypatch.setattr(matmul, "float32_is_faster", lambda: is_faster)
    with bf16_matmul_in_fp32(dtype):
        layer().float()(inputs.float())
        assert not products
        layer()(inputs)
    assert len(products) == (dtype == "bfloat16" and is_faster)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "bloom", "gptj"])
def test_all_projections_of_a_model_multiply_so_with_nearly_the_same_logits(
    faster, products, model_type
):
    model = tiny_model(model_type).bfloat16().eval().requires_grad_(False)
    ids = torch.randint(
        1,
        400,
        (8, 40),
        generator=seeded(1),
    )
    with torch.inference_mode():
        expected = model(ids).logits.float()
        with bf16_matmul_in_fp32("bfloat16"):
            logits = model(ids).logits.float()
    assert len(products) >= 4 * model.config.num_hidden_layers
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("n_tokens", "small", "copied", "n_products", "n_by_copy"),
    [
        (1, True, True, 0, 0),
        (matmul.MIN_ROWS_WITH_COPY, True, True, 1, 1),
        (matmul.MIN_ROWS_WITH_COPY, True, False, 0, 0),
        # Answers: a streamed model has no copies, and must give the same.
        (matmul.MIN_ROWS_WITH_COPY, False, True, 0, 0),
        (matmul.MIN_ROWS - 1, False, True, 0, 0),
        (N_TOKENS, False, True, 1, 1),
        (N_TOKENS, False, False, 1, 0),
    ],
)
def test_a_copy_serves_small_batches_only_where_it_may(
    faster, products, n_tokens, small, copied, n_products, n_by_copy
):
    module = layer()
    inputs = drawn(n_tokens, 64)
    with bf16_matmul_in_fp32("bfloat16"):
        if copied:
            keep_fp32_copies(module)
        with use_fp32_copies_for_small_batches() if small else nullcontext():
            result = module(inputs)
    assert len(products) == n_products
    assert sum(len(call) > 3 for call in products) == n_by_copy
    assert is_rounded_alike(result, rounded_once(inputs, module.weight, module.bias))


@pytest.mark.parametrize("chunk", [1000, 2**22])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("room", [2**20, 4 * 96 * 64 - 1, -1])
def test_answers_are_the_same_with_a_copy_as_without_one(
    faster, monkeypatch, products, chunk, bias, room
):
    """Whether a model is resident or streamed is in no key."""
    monkeypatch.setattr(matmul, "_CHUNK", chunk)
    module = layer(bias)
    inputs = drawn(N_TOKENS, 64)
    with bf16_matmul_in_fp32("bfloat16"):
        without = module(inputs)
        keep_fp32_copies(module, room)
        assert torch.equal(module(inputs), without)
    assert [len(call) > 3 for call in products] == [False, room == 2**20]


def test_a_copy_serves_its_own_weight_only(faster):
    module = layer()
    inputs = drawn(N_TOKENS, 64)
    before = module.weight
    with bf16_matmul_in_fp32("bfloat16"):
        keep_fp32_copies(module)
        first = module(inputs)
        module.weight = nn.Parameter(drawn(96, 64, seed=9), requires_grad=False)
        expected = rounded_once(inputs, module.weight, module.bias)
        assert is_rounded_alike(module(inputs), expected)
        module.weight = before
        assert torch.equal(module(inputs), first)


@pytest.mark.parametrize(
    ("seconds", "is_faster"), [(1.0, True), (1.9, False), (1.5, True)]
)
def test_float32_must_be_clearly_faster(monkeypatch, seconds, is_faster):
    monkeypatch.setattr(
        matmul,
        "_seconds",
        lambda factor: seconds if factor.dtype == torch.float32 else 2.0,
    )
    matmul.float32_is_faster.cache_clear()
    assert matmul.float32_is_faster() is is_faster
    matmul.float32_is_faster.cache_clear()


def test_recomputed_blocks_multiply_in_the_backward_pass_as_before(
    faster, products, tmp_path, store
):
    """Otherwise torch finds other tensors than it kept, and the backward pass fails."""
    loaded = load_model(
        locate_model(str(save_tiny(tmp_path / "model")), store), "bfloat16"
    )
    ids = torch.randint(
        1,
        400,
        (16, 40),
        generator=seeded(2),
    ).tolist()
    expected = mask_gradients(loaded, ids, ignore_steps)
    with bf16_matmul_in_fp32("bfloat16"):
        gradients = mask_gradients(loaded, ids, ignore_steps)
    assert products
    for gradient, block in zip(gradients, expected, strict=True):
        assert (gradient - block).norm() < 0.1 * block.norm()
