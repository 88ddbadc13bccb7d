"""Loss against what is won: where points stand, which are joined, what is said of them."""

from dataclasses import replace

import pytest

from sparsedash.reporting.charts.gain_chart import gain_chart, gain_words
from sparsedash.reporting.charts.tradeoff_data import Gain, Gained, Reading
from tests.reporting.charts.drawn import drawn, trace, tradeoff_data
from tests.ui import specimens


def gain(value, wide=0.0):
    return Gain(value=value, low=value - wide, high=value + wide, words=f"{value:.2f} × as fast")


@pytest.fixture
def tradeoff():
    _, (dense, *sparse) = specimens.run()
    return tradeoff_data(dense, {"one": sparse[:2], "other": sparse[2:]})


def keys(tradeoff):
    return [point.key for point in tradeoff.sparse]


def test_points_stand_at_what_they_win_with_both_intervals(tradeoff):
    first, second, third = keys(tradeoff)
    gained = Gained(name="Speed", gains={first: gain(1.1, 0.05), second: gain(1.2), third: gain(1.3)})
    one = trace(drawn(gain_chart(tradeoff, gained, "accuracy")), "one")
    assert one["x"] == [1.1, 1.2]
    assert one["error_x"]["array"] == pytest.approx([0.05, 0])
    assert one["y"] == [point.readings["accuracy"][0].value for point in tradeoff.lines["one"]]
    assert [data[1] for data in one["customdata"]] == [first, second]


def test_what_is_not_known_is_not_drawn(tradeoff):
    figure = drawn(gain_chart(tradeoff, Gained(name="Speed", gains={keys(tradeoff)[1]: gain(1.2)}), "accuracy"))
    assert trace(figure, "one")["x"] == [1.2]
    assert "other" not in [t["name"] for t in figure["data"]]


def accurate(point, value):
    reading = Reading(role="sparse", value=value, low=value, high=value, words=f"{value} %")
    return replace(point, readings={**point.readings, "share right": (reading,)})


def test_the_line_joins_dense_and_those_that_nobody_beats(tradeoff):
    first, second, third = tradeoff.sparse
    known = replace(
        tradeoff,
        dense=accurate(tradeoff.dense, 50.0),
        lines={"one": [accurate(first, 48.0), accurate(second, 46.0)], "other": [accurate(third, 44.0)]},
    )
    # The third wins less than the second and loses more.
    gained = Gained(name="Speed", gains={first.key: gain(1.1), second.key: gain(1.2), third.key: gain(1.15)})
    front = trace(drawn(gain_chart(known, gained, "share right")), "unbeaten")
    assert (front["x"], front["y"]) == ([1.0, 1.1, 1.2], [50.0, 48.0, 46.0])
    assert gain_words(known, gained, "share right").count("on the Pareto front") == 2


def test_a_model_slower_than_dense_stays_on_the_chart_and_off_the_line(tradeoff):
    slow = accurate(tradeoff.sparse[0], 10.0)
    known = replace(tradeoff, dense=accurate(tradeoff.dense, 50.0), lines={"one": [slow]})
    figure = drawn(gain_chart(known, Gained(name="Speed", gains={slow.key: gain(0.9)}), "share right"))
    assert figure["layout"]["xaxis"]["range"][0] < 0.9
    assert trace(figure, "unbeaten")["x"] == [1.0]


@pytest.mark.parametrize("measure", ["accuracy", "word perplexity", "flips", "share right"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_drawn_for_every_measure_in_both_themes_with_words(tradeoff, measure, theme):
    gained = Gained(name="Speed", gains={key: gain(1.1) for key in keys(tradeoff)})
    assert len(drawn(gain_chart(tradeoff, gained, measure, theme))["data"]) >= 4
    assert gain_words(tradeoff, gained, measure).startswith(f"{measure.capitalize()} against Speed")
