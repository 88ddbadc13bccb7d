"""The smallest loss that so many passages show."""

from random import Random
from statistics import fmean, stdev

import pytest

from sparsedash.catalog import choices
from sparsedash.schema.records import Record, Run
from sparsedash.stats.significance import SPREAD_FLIPS, SPREAD_NATS, smallest_loss
from sparsedash.stats.tolerance import record_losses


def test_it_shrinks_with_the_root_of_the_passages():
    few, many = smallest_loss(100), smallest_loss(400)
    assert few.points == pytest.approx(2 * many.points)
    assert few.ratio == pytest.approx(many.ratio**2)


def test_a_loss_of_that_size_is_shown_four_times_of_five():
    rng, n = Random(0), 400
    loss = smallest_loss(n).points / 100
    shown = 0
    for _ in range(2000):
        fallen = [rng.gauss(loss, SPREAD_FLIPS) for _ in range(n)]
        shown += fmean(fallen) - 1.96 * stdev(fallen) / n**0.5 > 0
    assert 0.77 < shown / 2000 < 0.83


def test_the_spreads_are_those_of_the_run_that_ships():
    run = choices.example_result(Run, choices.EXAMPLE)
    records = [choices.example_result(Record, key) for key in run.sparse]
    mild = [each for each in records if each.sparsity_permille == 100 and each.pruned.method.compensation != "none"]
    dense = choices.example_result(Record, run.dense)
    found = [record_losses(dense, sparse) for sparse in mild]
    assert len(found) == 3
    assert fmean(each.nats.deviation for each in found) == pytest.approx(SPREAD_NATS, rel=0.05)
    flips = [((each.broke + each.mended) / each.nats.n) ** 0.5 for each in found]
    assert fmean(flips) == pytest.approx(SPREAD_FLIPS, rel=0.05)
