"""How the sparsity grows from round to round, by hand."""

from typing import get_args

import pytest

from sparsedash.engine.pruning.allocation import SCHEDULES, reached_permille
from sparsedash.schema.method_settings import Schedule


def test_every_schedule_that_can_be_asked_for_is_in_the_table():
    assert set(SCHEDULES) == set(get_args(Schedule))


@pytest.mark.parametrize(
    ("schedule", "half_way"),
    # 1 - sqrt(0.36), 0.64 / 2, 0.64 / 8, 0.64 (1 - sqrt(1/2)).
    [("exponential", 400), ("linear", 320), ("cubic", 80), ("cosine", 187)],
)
def test_half_way_to_64_percent(schedule, half_way):
    assert reached_permille(schedule, 640, 0.5) == half_way


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_begins_with_the_dense_model_ends_at_the_target_and_never_falls(schedule):
    reached = [reached_permille(schedule, 300, done / 6) for done in range(7)]
    assert reached[0] == 0
    assert reached[-1] == 300
    assert reached == sorted(reached)
