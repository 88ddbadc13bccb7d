"""Small layers with statistics from random inputs, for the tests of pruning."""

import torch

from sparsedash.engine.pruning.layer import Layer, Sample, Statistics
from tests.engine.tiny import seeded


def inputs(m, n_tokens=400, seed=0):
    """(t, m) correlated activations with a mean."""
    generator = seeded(seed)
    mixed = torch.randn(n_tokens, m, generator=generator) @ torch.randn(
        m, m, generator=generator
    )
    return mixed / m**0.5 + torch.rand(m, generator=generator)


def statistics_of(x):
    """Statistics of these inputs (t, m), without held-out tokens."""
    centred = x - x.mean(dim=0)
    return Statistics(
        covariance=centred.T @ centred / len(x),
        mean=x.mean(dim=0),
        held_out=Sample(inputs=x[:0], weights=x.new_empty(0)),
        n_tokens=len(x),
    )


def layer(
    m=8,
    d=5,
    seed=0,
    bias=False,
    x=None,
    weight=None,
    gradients=None,
):
    """A layer of random weights whose statistics are those of `x`."""
    generator = seeded(seed + 1)
    x = inputs(m, seed=seed) if x is None else x
    drawn = torch.randn(d, m, generator=generator)
    return Layer(
        out_weight=drawn if weight is None else weight,
        out_bias=torch.randn(d, generator=generator) if bias else None,
        inner_weights=[torch.randn(m, d, generator=generator) for _ in range(2)],
        statistics=statistics_of(x),
        seed=seed,
        mask_gradients=gradients,
    )
