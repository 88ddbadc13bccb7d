"""Single weights: patterns, Wanda by hand, SparseGPT against fresh inverses."""

from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.engine.pruning.weight_pruning import (
    PATTERNS,
    WEIGHT_SALIENCIES,
    inverse_factor,
    needs_factor,
    sparse_weight,
)
from sparsedash.schema.method_settings import (
    FIXED_PERMILLE,
    MethodSettings,
    Pattern,
    allowed_choices,
)
from tests.engine.pruning.layers import inputs, statistics_of
from tests.engine.tiny import seeded


def scores(rows, columns, seed=0):
    return torch.rand(
        rows,
        columns,
        generator=seeded(seed),
    )


def test_every_pattern_and_saliency_that_can_be_asked_for_has_a_row():
    others = {"channelx1", "layer", "expert", "expert-channel"}
    assert {*PATTERNS, *others} == set(get_args(Pattern))
    assert all(
        set(allowed_choices(pattern)["saliency"]) == set(WEIGHT_SALIENCIES)
        for pattern in PATTERNS
    )
    decided = {
        name: 1000 * row.n_zero // row.group
        for name, row in PATTERNS.items()
        if row.group
    }
    assert decided == FIXED_PERMILLE


@given(
    st.sampled_from(["2:4", "4:8"]),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(0, 2**31),
)
def test_every_full_group_has_exactly_its_zeros_and_the_rest_of_a_row_stays(
    name, rows, columns, seed
):
    pattern = PATTERNS[name]
    zeros = pattern.zeros(
        scores(rows, columns, seed),
        500,
        by_row=True,
    )
    n_grouped = columns - columns % pattern.group
    groups = zeros[:, :n_grouped].reshape(rows, -1, pattern.group)
    assert (groups.sum(dim=2) == pattern.n_zero).all()
    assert not zeros[:, n_grouped:].any()


def test_a_share_goes_from_every_row_or_from_all():
    ranked = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    by_row = PATTERNS["1x1"].zeros(ranked, 500, by_row=True)
    overall = PATTERNS["1x1"].zeros(ranked, 500, by_row=False)
    assert by_row.tolist() == [[True, True, False, False]] * 2
    assert overall.tolist() == [[True] * 4, [False] * 4]


@pytest.mark.parametrize("by_row", [True, False])
def test_masks_of_single_weights_are_nested_and_nothing_goes_at_zero(by_row):
    drawn = scores(6, 50)
    masks = [
        PATTERNS["1x1"].zeros(drawn, permille, by_row)
        for permille in (0, 100, 300, 900)
    ]
    assert not masks[0].any()
    for less, more in pairwise(masks):
        assert (more | less).equal(more)
        assert more.sum() > less.sum()


def weights(n, d, seed=5):
    return torch.randn(
        n,
        d,
        generator=seeded(seed),
    )


def pruned(weight, statistics, method, permille=500):
    factor = (
        inverse_factor(statistics, method.damping) if needs_factor(method) else None
    )
    return sparse_weight(
        weight,
        statistics,
        factor,
        method,
        permille,
    )


@pytest.mark.parametrize(
    ("pattern", "saliency", "permille", "expected"),
    [
        # Sizes with the inputs' root mean squares of 10, 1, 2, 0.5: 10, 3, 4, 2 and 1, 5, 2, 4.5.
        ("2:4", "activation-aware", 500, [[1.0, 0, 2, 0], [0, 5, 0, -9]]),
        ("1x1", "activation-aware", 250, [[1.0, -3, 2, 0], [0, 5, 1, -9]]),
        # All weights together.
        ("1x1", "magnitude", 375, [[0.0, -3, 2, 4], [0, 5, 0, -9]]),
    ],
)
def test_zeros_by_hand(pattern, saliency, permille, expected):
    x = torch.diag(torch.tensor([20.0, 2, 4, 1]))
    weight = torch.tensor([[1.0, -3, 2, 4], [0.1, 5, 1, -9]])
    method = MethodSettings(
        pattern=pattern,
        saliency=saliency,
        compensation="none",
        scope="decoder",
    )
    sparse = pruned(weight, statistics_of(x), method, permille)
    assert torch.equal(sparse, torch.tensor(expected))


def damped(statistics, damping):
    moment = statistics.covariance.double() + torch.outer(
        statistics.mean, statistics.mean
    )
    return (
        moment + damping * moment.diagonal().median() * torch.eye(len(moment)).double()
    )


def by_fresh_inverses(weight, moment, pattern, choose):
    """Column after column with a new inverse of the rest each time: the definition."""
    weight = weight.double().clone()
    d = weight.shape[1]
    pivots = [moment[j:, j:].inverse()[0, 0] for j in range(d)]
    for j in range(d):
        if j % pattern.group == 0:
            columns = slice(j, j + pattern.group)
            zeros = choose(weight[:, columns], torch.stack(pivots[columns]))
        inverse = moment[j:, j:].inverse()
        error = weight[:, j] * zeros[:, j % pattern.group] / inverse[0, 0]
        weight[:, j:] -= torch.outer(error, inverse[0])
    return weight


@pytest.mark.parametrize("name", ["2:4", "4:8"])
def test_sparsegpt_agrees_with_fresh_inverses(name):
    pattern = PATTERNS[name]
    statistics = statistics_of(inputs(16))
    weight = weights(6, 16)
    method = MethodSettings(
        pattern=name,
        saliency="obs",
        scope="decoder",
    )

    def choose(part, pivots):
        return pattern.zeros(
            part.square() / pivots,
            500,
            by_row=False,
        )

    expected = by_fresh_inverses(
        weight, damped(statistics, method.damping), pattern, choose
    )
    sparse = pruned(weight, statistics, method)
    assert torch.allclose(
        sparse.double(),
        expected,
        rtol=1e-3,
        atol=1e-3,
    )
    assert torch.equal(sparse == 0, expected.abs() < 1e-9)


def test_more_columns_than_one_block_give_the_same_as_fresh_inverses():
    pattern = PATTERNS["2:4"]
    weight = weights(4, 264)
    statistics = statistics_of(inputs(264, n_tokens=1200))
    method = MethodSettings(
        pattern="2:4",
        saliency="magnitude",
        scope="decoder",
        damping=0.1,
    )
    parts = iter(pattern.zeros(weight.abs(), 500, by_row=False).split(4, dim=1))
    expected = by_fresh_inverses(
        weight, damped(statistics, 0.1), pattern, lambda part, pivots: next(parts)
    )
    sparse = pruned(weight, statistics, method).double()
    assert torch.allclose(
        sparse,
        expected,
        rtol=1e-2,
        atol=1e-2,
    )


@pytest.mark.parametrize("saliency", WEIGHT_SALIENCIES)
@pytest.mark.parametrize("compensation", ["none", "least-squares"])
def test_zero_percent_changes_nothing(saliency, compensation):
    weight = weights(8, 24)
    method = MethodSettings(
        pattern="1x1",
        saliency=saliency,
        compensation=compensation,
    )
    assert torch.equal(pruned(weight, statistics_of(inputs(24)), method, 0), weight)


@pytest.mark.parametrize("saliency", WEIGHT_SALIENCIES)
def test_an_input_that_is_always_zero_does_no_harm(saliency):
    x = inputs(16)
    x[:, 3] = 0
    method = MethodSettings(pattern="2:4", saliency=saliency)
    sparse = pruned(weights(5, 16), statistics_of(x), method)
    assert torch.isfinite(sparse).all()
    assert (sparse.reshape(5, 4, 4) == 0).sum(dim=2).eq(2).all()
