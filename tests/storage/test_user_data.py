"""What visitors leave beside the results: here the names and pins of their runs."""

import pytest

from sparsedash.schema.pair_records import RunMark
from sparsedash.storage.store import Store
from sparsedash.storage.users import LONGEST_NAME, UserData


@pytest.fixture
def visitors(tmp_path):
    store = Store(tmp_path / "data")
    yield UserData(store)
    store.close()


def test_a_name_and_a_pin_are_kept_beside_each_other(visitors):
    visitors.name_run("r", "  The one \n for the talk ")
    visitors.pin_runs(["r", "s"], pinned=True)
    assert visitors.marks() == {"r": RunMark(name="The one for the talk", pinned=True), "s": RunMark(pinned=True)}
    assert (visitors.name_of("r"), visitors.name_of("s"), visitors.name_of("t")) == ("The one for the talk", "", "")


def test_a_mark_that_says_nothing_is_not_kept(visitors):
    visitors.name_run("r", "Mine")
    visitors.pin_runs(["r"], pinned=True)
    visitors.name_run("r", " ")
    visitors.pin_runs(["r"], pinned=False)
    assert visitors.marks() == {}


def test_a_long_name_is_cut(visitors):
    visitors.name_run("r", "x" * 1000)
    assert visitors.name_of("r") == "x" * LONGEST_NAME


def test_a_name_that_no_file_can_hold_is_kept_without_that(visitors):
    visitors.name_run("r", "a \ud83d name")
    assert visitors.name_of("r") == "a ? name"


def test_marks_of_forgotten_runs_are_gone_and_others_stay(visitors):
    visitors.name_run("r", "One")
    visitors.name_run("s", "Two")
    visitors.forget_runs(["r"])
    assert visitors.marks() == {"s": RunMark(name="Two")}
