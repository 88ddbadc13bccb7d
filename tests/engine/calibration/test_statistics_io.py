"""Packed statistics come back as they were, in half the room."""

import pytest
import safetensors.torch
import torch

from sparsedash.engine.calibration.statistics import pack_statistics, unpack_statistics
from sparsedash.engine.pruning.layer import Sample, Statistics
from sparsedash.schema.errors import CalibrationError


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_packed_statistics_come_back_to_the_bit(width):
    x = torch.randn(20, width)
    held_out = Sample(inputs=x[:3], weights=torch.rand(3))
    known = Statistics(second_moment=x.T @ x, mean=x.mean(0), held_out=held_out, n_tokens=20)
    back = unpack_statistics(pack_statistics(known))
    assert torch.equal(back.second_moment.tril(), known.second_moment.tril())
    assert torch.equal(back.second_moment, back.second_moment.T)


def test_a_diagonal_alone_survives_as_well():
    held_out = Sample(inputs=torch.randn(4, 6), weights=torch.rand(4))
    known = Statistics(second_moment=torch.rand(6), mean=torch.rand(6), held_out=held_out, n_tokens=20)
    back = unpack_statistics(pack_statistics(known))
    assert not back.is_whole
    assert torch.equal(back.mean_squares, known.mean_squares)
    assert torch.equal(back.mean, known.mean)
    assert torch.equal(back.held_out.inputs, held_out.inputs)
    assert torch.equal(back.held_out.weights, held_out.weights)
    assert back.n_tokens == 20


def test_statistics_that_were_packed_before_there_were_weights_count_every_token_alike():
    x = torch.randn(20, 4)
    held_out = Sample(inputs=x[:3], weights=torch.rand(3))
    known = Statistics(second_moment=x.T @ x, mean=x.mean(0), held_out=held_out, n_tokens=20)
    tensors = safetensors.torch.load(pack_statistics(known))
    del tensors["held_out_weights"]
    back = unpack_statistics(safetensors.torch.save(tensors))
    assert torch.equal(back.held_out.inputs, held_out.inputs)
    assert torch.equal(back.held_out.weights, torch.ones(3))


def test_packing_takes_half_of_the_matrix():
    known = Statistics(
        second_moment=torch.eye(512),
        mean=torch.zeros(512),
        held_out=Sample(inputs=torch.zeros(0, 512), weights=torch.zeros(0)),
        n_tokens=1,
    )
    assert len(pack_statistics(known)) < 512 * 512 * 4 * 0.52


def test_damaged_statistics_are_told():
    with pytest.raises(CalibrationError, match="cannot be read"):
        unpack_statistics(b"no safetensors")
