"""One hopeless method does not squash the chart: it stands at the edge, with an arrow and its value."""

from dataclasses import replace
from math import log

import pytest

from sparsedash.reporting.charts.gain_chart import Gain, Gained, gain_chart
from sparsedash.reporting.charts.tradeoff_chart import (
    clip_far_points,
    far_words,
    short_times,
    tradeoff_chart,
    tradeoff_words,
)
from sparsedash.reporting.charts.tradeoff_data import Point, Reading, TradeoffData, nats_as_factor
from sparsedash.reporting.svg_chart import tradeoff_svg
from tests.reporting.charts.drawn import drawn, trace

MEASURE = "word perplexity"


def point(key: str, permille: int, nats: float, spread: float = 0.1, **more) -> Point:
    """A model that lost this much; upwards is better."""
    words = f"{nats_as_factor(nats)} that of dense"
    one = Reading(role="sparse", value=-nats, low=-nats - spread, high=-nats + spread, words=words)
    other = Reading(role="sparse", value=-1.0, low=-2.0, high=0.0, words="")
    readings = {MEASURE: (one,), "accuracy": (other,), "flips": (other,), "share right": (other,)}
    return Point(key=key, permille=permille, sparsity=permille / 10, readings=readings, facts=[], **more)


def race(**lines: list[Point]) -> TradeoffData:
    return TradeoffData(
        dense=point("dense", 0, 0.0, 0.0),
        lines=lines,
        n_passages=132,
        taken="MLP channels removed",
        leader="good",
        allowed={MEASURE: log(1.1), "accuracy": 2.0},
    )


GOOD = [point("g1", 100, 0.1), point("g2", 200, 0.4), point("g3", 300, 0.8)]
FAIR = [point("f1", 100, 0.2), point("f2", 200, 0.9), point("f3", 300, 7.0, verdict="beyond")]
HOPELESS = [point(f"h{p}", p, nats, verdict="beyond") for p, nats in ((100, 7.0), (200, 9.5), (300, 13.8155106))]
RACE = race(good=GOOD, fair=FAIR, hopeless=HOPELESS)


def chart(data=RACE, measure=MEASURE):
    return drawn(tradeoff_chart(data, measure))


def said(figure):
    """What stands at the edge, with the arrows counted."""
    notes = [note for note in figure["layout"]["annotations"] if note.get("xref") == "x" and note.get("yref") == "y"]
    return [note["text"] for note in notes if note["text"]], sum(note["showarrow"] for note in notes)


def test_the_axis_follows_the_leading_line_and_no_hopeless_point():
    low, high = chart()["layout"]["yaxis"]["range"]
    assert -1.6 < low < -1.0 and 0.0 < high < 0.5


def test_points_at_the_edge_say_their_value_beside_an_arrow_and_keep_their_words():
    texts, n_arrows = said(chart())
    assert texts == ["■ 1.1k×<br>◆ >1M×", "1.1k×", "13k×"]
    assert n_arrows == 4
    for marks in (t for t in chart()["data"] if t["name"] == "sparse"):
        assert all(y is None or y > -1.6 for y in marks["y"])
    assert "1,097 × that of dense" in tradeoff_words(RACE)


def test_the_line_leads_to_where_the_point_belongs_and_is_cut_off_by_the_plot():
    lines = [t for t in chart()["data"] if t["name"] == "line"]
    assert [min(t["y"]) for t in lines] == pytest.approx([-7.0, -13.8155106])
    assert all(t.get("cliponaxis", True) for t in lines)
    whole = chart(race(good=GOOD))
    assert [t["mode"] for t in whole["data"] if t["name"] == "sparse"] == ["lines+markers+text"]


def test_a_point_at_the_edge_can_still_be_clicked():
    marks = [t for t in chart()["data"] if t["name"] == "sparse"][-1]
    assert [data[1] for data in marks["customdata"]] == ["", "h100", "h200", "h300"]


def test_beside_the_edge_stands_no_number_of_the_axis():
    axis = chart()["layout"]["yaxis"]
    edge = min(y for t in chart()["data"] if t["name"] == "sparse" for y in t["y"])
    assert min(axis["tickvals"]) > edge > axis["range"][0]


def test_what_is_undecided_and_what_the_others_leave_room_for_stays_where_it_belongs():
    unknown = race(good=GOOD, other=[point("o", 300, 7.0, verdict="undecided")])
    assert clip_far_points(unknown, MEASURE) == unknown
    wide = race(good=GOOD, other=[point("w", 100, 1.2, spread=8.0), point("x", 200, 8.0)])
    assert clip_far_points(wide, MEASURE) == wide


def test_up_to_twelve_times_what_may_be_lost_a_point_stays_where_it_belongs():
    sharp = race(good=[point(f"s{p}", p, nats, spread=0.01) for p, nats in ((100, 0.01), (200, 0.02), (300, 1.1))])
    assert clip_far_points(sharp, MEASURE) == sharp


def test_where_everything_is_hopeless_nothing_is_moved():
    alone = race(good=HOPELESS)
    assert clip_far_points(alone, MEASURE) == alone
    assert far_words(alone, MEASURE) == ""


def test_other_measures_which_have_bounds_are_drawn_whole():
    assert clip_far_points(RACE, "accuracy") == RACE
    assert said(chart(measure="accuracy")) == ([], 0)


def test_the_arrow_is_explained_where_there_is_one():
    assert "farther down" in far_words(RACE, MEASURE)
    assert far_words(race(good=GOOD), MEASURE) == ""


def test_values_are_short_enough_for_five_beside_each_other_on_a_phone():
    nats = [log(factor) for factor in (12.0, 934.0, 1071.0, 12_800.0, 650_000.0, 1e6)]
    assert [short_times(n) for n in nats] == ["12×", "934×", "1.1k×", "13k×", "650k×", ">1M×"]


def test_the_second_question_and_the_report_move_the_same_points():
    gains = {p.key: Gain(value=1.0 + i / 10, low=1.0, high=2.0, words="") for i, p in enumerate(RACE.sparse)}
    figure = drawn(gain_chart(RACE, Gained(name="bytes", gains=gains), MEASURE))
    texts, n_arrows = said(figure)
    assert n_arrows == len(texts) == 4
    assert min(trace(figure, "unbeaten")["y"]) == pytest.approx(-13.8155106)
    report = tradeoff_svg(RACE, MEASURE)
    assert report.count("↓") == 4 and "&gt;1M×" in report and report.count('clip-path="url(#') == 2
    assert "↓" not in tradeoff_svg(replace(RACE, lines={"good": GOOD}), MEASURE)
