"""Packed statistics come back as they were, in half the room."""

import pytest
import torch

from sparsedash.engine.packing import pack, unpack
from sparsedash.engine.pruning.layer import Statistics
from sparsedash.errors import CalibrationError


@pytest.mark.parametrize("width", [1, 2, 7, 8])
def test_packed_statistics_come_back_to_the_bit(width):
    x = torch.randn(20, width)
    known = Statistics(second_moment=x.T @ x, mean=x.mean(0), held_out=x[:3], n_tokens=20)
    back = unpack(pack(known))
    assert torch.equal(back.second_moment.tril(), known.second_moment.tril())
    assert torch.equal(back.second_moment, back.second_moment.T)
    assert torch.equal(back.mean, known.mean)
    assert torch.equal(back.held_out, known.held_out)
    assert back.n_tokens == 20


def test_packing_takes_half_of_the_matrix():
    known = Statistics(
        second_moment=torch.eye(512),
        mean=torch.zeros(512),
        held_out=torch.zeros(0, 512),
        n_tokens=1,
    )
    assert len(pack(known)) < 512 * 512 * 4 * 0.52


def test_damaged_statistics_are_told():
    with pytest.raises(CalibrationError, match="cannot be read"):
        unpack(b"no safetensors")
