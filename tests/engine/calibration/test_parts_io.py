"""Masked weights come back to the bit, in little more room than what is not zero takes."""

import pytest
import torch
from torch import nn

from sparsedash.engine.calibration.calibration_cache import pack_errors, pack_masked, unpack_errors, unpack_masked
from sparsedash.engine.pruning.weight_pruning import MaskedBlock
from sparsedash.schema.errors import CalibrationError

ERRORS = [(0.1, 1 / 3, None), (0.25, 0.5, 2 / 3)]


def projections(dtype):
    made = {"up": nn.Linear(5, 7, bias=False), "down": nn.Linear(7, 5, bias=False)}
    return {name: module.to(dtype).requires_grad_(False) for name, module in made.items()}


def masked(dense, factor=1.0):
    """Every second weight is gone; of the others one is a zero of the other sign, which is none that is gone."""
    weights = {}
    for name, module in dense.items():
        weight = module.weight.clone() * factor
        weight.view(-1)[::2] = 0.0
        weights[name] = weight
    return MaskedBlock(weights=weights, errors=ERRORS)


def bits(tensor):
    return tensor.view({2: torch.int16, 4: torch.int32}[tensor.itemsize])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("refitted", [True, False])
def test_a_block_comes_back_to_the_bit(dtype, refitted):
    dense = projections(dtype)
    dense["up"].weight.view(-1)[1] = -0.0
    block = masked(dense, 1.5 if refitted else 1.0)
    back = unpack_masked(pack_masked(block, refitted=refitted), dense)
    assert back.errors == ERRORS
    assert back.weights.keys() == block.weights.keys()
    assert all(torch.equal(bits(back.weights[name]), bits(block.weights[name])) for name in dense)


def test_weights_that_nothing_was_measured_of_come_back():
    dense = projections(torch.float32)
    block = MaskedBlock(weights=masked(dense).weights, errors=[])
    assert unpack_masked(pack_masked(block, refitted=False), dense).errors == []


def test_a_mask_takes_a_bit_a_weight_and_refitted_weights_what_is_left_of_them():
    dense = {"up": nn.Linear(512, 512, bias=False).requires_grad_(False)}
    block = masked(dense)
    assert len(pack_masked(block, refitted=False)) < 512 * 512 / 8 * 1.05
    assert len(pack_masked(block, refitted=True)) < 512 * 512 * (1 / 8 + 4 / 2) * 1.05


def test_errors_come_back_to_the_bit():
    assert [unpack_errors(pack_errors(own)) for own in ERRORS] == ERRORS


@pytest.mark.parametrize(
    "data", [b"", b"no form at all", pack_masked(masked(projections(torch.float32)), refitted=True)]
)
def test_what_is_of_another_form_is_told(data):
    with pytest.raises(CalibrationError, match="cannot be read"):
        unpack_masked(data, {"up": nn.Linear(9, 9)})
    with pytest.raises(CalibrationError, match="cannot be read"):
        unpack_errors(data)
