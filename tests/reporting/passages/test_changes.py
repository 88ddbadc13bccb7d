"""The change of the right word's log-probability in words and in ranges."""

import itertools
from math import inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsedash.reporting.passage_analysis import MOST_RANGES, ChangeRange, change_ranges, change_words, count_by_range

FINITE = st.floats(-800, 800, allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "address", "words"),
    [
        (-2.0, -1.5, "-2..-1.5", "fell by 1.5 to 2"),
        (-inf, -3.0, "..-3", "fell by 3 or more"),
        (-0.5, 0.0, "-0.5..0", "fell by 0 to 0.5"),
        (0.0, 0.5, "0..0.5", "rose by 0 to 0.5"),
        (3.0, inf, "3..", "rose by 3 or more"),
    ],
)
def test_a_range_has_its_name_in_the_address_and_in_words(low, high, address, words):
    found = ChangeRange(low=low, high=high)
    assert (found.address, found.words) == (address, words)


@given(st.lists(FINITE, max_size=40))
def test_every_change_is_counted_once_in_ranges_that_leave_no_gap(changes):
    found = change_ranges(changes)
    assert sum(count_by_range(changes, found)) == len(changes)
    assert (found[0].low, found[-1].high) == (-inf, inf)
    assert all(one.high == other.low for one, other in itertools.pairwise(found))
    for change in changes:
        at = count_by_range([change], found).index(1)
        assert found[at].low <= change < found[at].high


@given(st.lists(FINITE, min_size=1, max_size=200))
def test_there_are_few_ranges_and_none_mixes_falls_and_rises(changes):
    found = change_ranges(changes)
    assert 2 <= len(found) <= MOST_RANGES + 1
    assert 0.0 in [each.high for each in found]
    assert len({each.address for each in found}) == len(found)


def test_the_ranges_are_round_and_fit_what_is_common():
    found = change_ranges([-2.9, -1.2, -0.4, 0.0, 0.3] * 20 + [-40.0])
    assert [each.address for each in found][:4] == ["..-2.5", "-2.5..-2", "-2..-1.5", "-1.5..-1"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (-log(4), "“a” became 4 times less likely. Its log-probability fell by 1.39."),
        (log(1.5), "“a” became 1.5 times more likely. Its log-probability rose by 0.41."),
        (-log(1234), "“a” became 1,234 times less likely. Its log-probability fell by 7.12."),
        (-900.0, "“a” became over 1,000,000 times less likely. Its log-probability fell by 900.00."),
        (0.004, "“a” stayed as likely as it was. Its log-probability stayed the same."),
    ],
)
def test_a_change_is_said_as_a_factor_first(change, said):
    assert change_words(change, "a") == said
