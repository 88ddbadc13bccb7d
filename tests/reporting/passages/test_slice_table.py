"""What groups of passages lost."""

import html
from dataclasses import replace

import pytest

from sparsedash.reporting.passage_analysis import LESS, MORE, slice_html, slice_losses
from sparsedash.reporting.passage_analysis import slice_table as slice_file
from sparsedash.reporting.record_pair import Pair
from sparsedash.stats.mean_intervals import mean_interval
from sparsedash.stats.tolerance import passage_losses
from tests.factories import STOPPED
from tests.ui import specimens
from tests.ui.conftest import shows_as_text
from tests.ui.fake_backend import FakeBackend

LOST_BY_LONG = 3.0


def pair_of(**changes):
    """Dense beside a model that loses nothing but on words of seven letters and more, where it loses about 3 nats."""
    _, records = specimens.run()
    dense = records[0]
    outcomes = tuple(
        replace(o, log_likelihood=o.log_likelihood - (LOST_BY_LONG + i % 3 / 10 if len(o.target) >= 7 else 0.0))
        for i, o in enumerate(dense.outcomes)
    )
    sparse = replace(records[-1], outcomes=outcomes, **changes)
    return Pair(left_name="dense", left=dense, right_name="30 %", right=sparse)


def found_in(pair):
    return slice_losses(FakeBackend(), pair, specimens.passages())


def test_the_group_that_loses_is_marked_and_those_that_lose_less_too():
    found = found_in(pair_of())
    marks = {row.group.name: row.beside(found.mean) for row in found.rows}
    assert marks["7 letters and more"] == MORE
    assert marks["5 to 6 letters"] == LESS
    assert marks["in small letters"] == ""


def test_a_group_has_the_losses_and_the_interval_of_its_own_passages():
    pair = pair_of()
    found = found_in(pair)
    row = next(row for row in found.rows if row.group.name == "7 letters and more")
    assert all(len(pair.left.outcomes[p].target) >= 7 for p in row.group.positions)
    assert row.losses == passage_losses([pair.outcomes(p) for p in row.group.positions])
    assert row.nats == mean_interval(row.losses.nats, found.alpha)


def test_the_chance_of_error_is_shared_by_every_interval_of_every_group():
    found = found_in(pair_of())
    assert found.alpha == pytest.approx(0.05 / (2 * len(found.rows)))


def test_where_one_stopped_early_the_intervals_allow_for_it():
    usual, looked = found_in(pair_of()), found_in(pair_of(stopping=STOPPED))
    for one, other in zip(usual.rows, looked.rows, strict=True):
        assert other.nats[0] <= one.nats[0] and other.nats[1] >= one.nats[1]


def test_the_number_of_groups_is_said_and_each_kind_heads_its_groups():
    found = found_in(pair_of())
    drawn = slice_html(found, "<i>", "dense")
    assert f" {len(found.rows)} groups are looked at" in drawn
    assert drawn.count('scope="colgroup"') == 5
    assert drawn.count('scope="row"') == len(found.rows)
    assert "<i>" not in drawn
    shows_as_text(drawn)


def test_a_group_of_one_passage_has_no_interval():
    passages = specimens.passages()
    lonely = replace(passages, targets=("1", *passages.targets[1:]))
    drawn = slice_html(slice_losses(FakeBackend(), pair_of(), lonely), "30 %", "dense")
    assert "(no interval)" in drawn


def test_the_table_can_be_taken_along_with_what_each_group_is_grouped_by():
    found = found_in(pair_of())
    drawn, file = slice_html(found, "30 %", "dense"), slice_file(found, "30 %", "dense")
    assert file.head[:3] == ["Grouped by", "Group", "Passages"]
    assert len(file.rows) == len(found.rows)
    assert len({row[0] for row in file.rows}) == 5
    assert all(f"<td>{html.escape(cell)}</td>" in drawn for row in file.rows for cell in row[2:] if cell)
