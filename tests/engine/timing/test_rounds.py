"""The order of the rounds and when they end, by a clock that a test moves."""

import pytest

from sparsedash.engine.comparison.timing import MOST_ROUNDS, StopCriterion, timed_rounds
from sparsedash.schema.errors import Cancelled

STOP = StopCriterion(within=0.05, least_rounds=15, most_s=120.0, n_warmup=2)


class Bench:
    """Dense takes 1.2 s and sparse 1 s, each times what `slow` says of that call; remembers who went when."""

    def __init__(self, slow=lambda n: 1.0):
        self.now, self.went, self._slow = 0.0, [], slow

    def clock(self):
        return self.now

    def sample(self, is_dense):
        seconds = (1.2 if is_dense else 1.0) * self._slow(len(self.went))
        self.went.append(is_dense)
        self.now += seconds
        return seconds


def ran(bench, stop=STOP, seed=0, on_round=lambda n, s: None):
    return timed_rounds(bench.sample, stop, seed, bench.clock, on_round)


def test_both_models_go_once_in_every_round_in_an_order_that_changes():
    bench = Bench()
    found = ran(bench)
    assert all(sum(bench.went[i : i + 2]) == 1 for i in range(0, len(bench.went), 2))
    assert bench.went[4::2] == found.dense_first
    assert 3 <= sum(found.dense_first) <= found.n - 3


def test_the_order_follows_from_the_seed():
    orders = [ran(Bench(), seed=seed).dense_first for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_warm_up_rounds_do_not_count_and_do_not_use_up_the_time():
    bench = Bench(lambda n: 100.0 if n < 4 else 1.0)
    found = ran(bench)
    assert len(bench.went) == 2 * (found.n + 2)
    assert max(found.dense_s) == 1.2
    assert found.ratio.value == pytest.approx(1.2)


def test_it_ends_at_the_least_number_of_rounds_where_the_interval_is_narrow_by_then():
    assert ran(Bench()).n == 15


def test_it_goes_on_while_the_interval_is_wide_and_ends_when_the_time_is_over():
    bench = Bench(lambda n: (0.5, 1.0, 2.0)[n % 3])
    found = ran(bench)
    assert found.n > 15
    assert bench.now >= 120.0
    assert bench.now - 120.0 <= 2 * (2.4 + 2.0) + sum((1.2 + 1.0) * 2 for _ in range(2))


def test_work_that_takes_long_gets_three_rounds_whatever_the_time():
    assert ran(Bench(lambda n: 500.0)).n == 3


def test_it_ends_at_the_largest_number_of_rounds_where_a_clock_stands_still():
    bench = Bench(lambda n: (0.5, 1.0, 2.0)[n % 3])
    assert timed_rounds(bench.sample, STOP, 0, lambda: 0.0, lambda n, s: None).n == MOST_ROUNDS


def test_a_load_that_comes_and_goes_by_rounds_does_not_move_the_ratio():
    found = ran(Bench(lambda n: 3.0 if n // 2 % 3 else 1.0))
    assert found.ratio.value == pytest.approx(1.2)
    assert found.n == 15


def test_it_can_be_stopped_before_every_sample():
    heard = []

    def stop_at_the_seventh(n, spent_s):
        heard.append(n)
        if len(heard) == 7:
            raise Cancelled

    bench = Bench()
    with pytest.raises(Cancelled):
        ran(bench, on_round=stop_at_the_seventh)
    assert len(bench.went) == 6
    assert heard == [0, 0, 0, 0, 0, 0, 1]
