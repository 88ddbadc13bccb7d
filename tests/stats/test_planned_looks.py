"""When a trial is looked at, and what that may cost."""

import pytest

from sparsedash.stats.anytime import planned_looks


@pytest.mark.parametrize("n", [1, 10, 95, 96, 132, 400, 5153, 1_000_000])
def test_the_shares_add_up_to_one_and_the_last_look_has_most(n):
    looks = planned_looks(n)
    assert sum(look.share for look in looks) == pytest.approx(1)
    assert looks[-1].n_passages == n and looks[-1].share >= 0.75
    assert [look.n_passages for look in looks] == sorted({look.n_passages for look in looks})


def test_looks_are_at_halves_and_never_at_too_few_passages():
    assert [look.n_passages for look in planned_looks(400)] == [50, 100, 200, 400]
    assert [look.n_passages for look in planned_looks(95)] == [95]
    assert len(planned_looks(5153)) == 6
