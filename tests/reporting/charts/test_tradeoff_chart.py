"""The trade-off chart: what stands where, told by more than colour, for each measure."""

import itertools
from dataclasses import replace
from math import exp, log

import pytest

from sparsedash.catalog.presets import METHODS
from sparsedash.reporting.charts.chart_style import PALETTES
from sparsedash.reporting.charts.gain_chart import gain_chart
from sparsedash.reporting.charts.tradeoff_chart import (
    clicked_record,
    clip_far_points,
    far_words,
    places,
    short_times,
    tradeoff_chart,
    tradeoff_words,
)
from sparsedash.reporting.charts.tradeoff_data import Gain, Gained, Point, Reading, TradeoffData
from sparsedash.reporting.run_results import live_point, published_beside
from sparsedash.reporting.wording import nats_as_factor
from sparsedash.stats.mean_intervals import mean_interval, moments
from sparsedash.stats.significance import share_interval, wilson_interval
from sparsedash.stats.tolerance import Tolerance, judge_all, record_losses
from tests.factories import PRUNED, RECORD, STOPPED, outcome
from tests.reporting.charts.drawn import drawn, labels, read, trace, tradeoff_data
from tests.ui import specimens

DENSE = specimens.record([True] * 60 + [False] * 60)
TEN = specimens.record([True] * 54 + [False] * 66, 100)
THIRTY = specimens.record([True] * 30 + [False] * 90, 300)
RACE = tradeoff_data(DENSE, {"sparse": [THIRTY, TEN]})
TWO = tradeoff_data(DENSE, {"least-squares": [TEN], "magnitude": [THIRTY]}, leader="magnitude")


def chart(tradeoff=RACE, measure="share right", theme="light"):
    return drawn(tradeoff_chart(tradeoff, measure, theme))


def crowd():
    """Eight methods at three sparsities that all end at about the same place."""
    lines = {
        method.name: [
            specimens.record([True] * (58 - i % 3) + [False] * (62 + i % 3), p, method.settings)
            for p in (100, 200, 300)
        ]
        for i, method in enumerate(METHODS[:8])
    }
    return tradeoff_data(DENSE, lines)


def test_sparse_points_stand_at_the_measured_sparsity_in_rising_order():
    xs = trace(chart(), "sparse")["x"]
    assert xs == [0.0, 100 * TEN.pruned.mlp_sparsity, 100 * THIRTY.pruned.mlp_sparsity]


def test_accuracy_is_drawn_as_points_more_or_fewer_than_dense_with_the_interval_of_its_verdict():
    change = trace(chart(measure="accuracy"), "sparse")
    assert change["y"] == [0.0, pytest.approx(-5.0), pytest.approx(-25.0)]
    (alone,) = judge_all([record_losses(DENSE, THIRTY)], Tolerance())
    assert change["error_y"]["arrayminus"][-1] == pytest.approx(100 * alone.accuracy.high - 25)
    assert change["error_y"]["array"][-1] == pytest.approx(25 - 100 * alone.accuracy.low)


def test_the_numbers_of_a_change_have_their_sign():
    marks = chart(measure="accuracy")["layout"]["yaxis"]
    assert dict(zip(marks["tickvals"], marks["ticktext"], strict=True)) == {-30: "−30", -20: "−20", -10: "−10", 0: "0"}


def test_the_line_begins_at_the_dense_accuracy():
    assert trace(chart(), "sparse")["y"] == [50.0, 45.0, 25.0]


def test_every_sparse_point_has_its_wilson_interval():
    bars = trace(chart(), "sparse")["error_y"]
    low, high = wilson_interval(30, 120)
    assert bars["array"][-1] == pytest.approx(100 * high - 25)
    assert bars["arrayminus"][-1] == pytest.approx(25 - 100 * low)
    assert bars["array"][0] == bars["arrayminus"][0] == 0


def test_the_dense_line_and_its_band_cross_the_whole_chart():
    figure = chart()
    left, right = figure["layout"]["xaxis"]["range"]
    line = trace(figure, "dense")
    band = trace(figure, "95 % interval of dense")
    assert line["x"] == [left, right]
    assert line["y"] == [50.0, 50.0]
    assert (min(band["x"]), max(band["x"])) == (left, right)
    assert (min(band["y"]), max(band["y"])) == pytest.approx([100 * b for b in wilson_interval(60, 120)])


def test_lines_carry_their_labels_at_their_height_and_there_is_no_legend():
    figure = chart()
    assert figure["layout"]["showlegend"] is False
    low, high = figure["layout"]["yaxis"]["range"]
    assert labels(figure) == pytest.approx({"dense": (50 - low) / (high - low), "sparse": (25 - low) / (high - low)})


def test_methods_differ_in_more_than_place_and_each_label_shows_its_mark():
    figure = chart(TWO)
    first, second = [t for t in figure["data"] if t["name"] == "sparse"]
    assert first["marker"]["symbol"][1] != second["marker"]["symbol"][1]
    assert first["line"]["dash"] != second["line"]["dash"]
    assert set(labels(figure)) == {"dense", "● least-squares", "■ magnitude"}


def test_points_of_methods_at_about_one_sparsity_stand_apart_and_their_hover_text_says_where():
    near = specimens.record([True] * 53 + [False] * 67, 105)
    near = replace(near, pruned=replace(near.pruned, sparsity_permille=100))
    both = chart(tradeoff_data(DENSE, {"one": [TEN], "other": [near], "same": [TEN]}))
    (first, left), (second, right), (third, _) = (
        (t["x"][1], t["customdata"][1][0]) for t in both["data"] if t["name"] == "sparse"
    )
    gap = 0.02 * both["layout"]["xaxis"]["range"][1]
    ordered = sorted((first, second, third))
    assert [b - a >= 0.99 * gap for a, b in itertools.pairwise(ordered)] == [True, True]
    assert "10.4 % removed" in left and f"{100 * near.pruned.mlp_sparsity:.1f} % removed" in right
    assert all(abs(x - 10.4) < 1.5 * gap for x in ordered)


def test_no_point_of_a_dense_sweep_stands_among_those_of_another_sparsity():
    asked = range(10, 310, 10)
    lines = {
        name: [specimens.record([True] * 60 + [False] * 60, permille) for permille in asked]
        for name in ("one", "other", "third", "last")
    }
    tradeoff = tradeoff_data(DENSE, lines, asked=tuple(asked))
    at = places(tradeoff, 31.8)
    for label, records in lines.items():
        for record in records:
            measured = 100 * record.pruned.mlp_sparsity
            assert abs(at[label, record.sparsity_permille] - measured) <= 0.5


def test_a_point_that_comes_moves_no_other():
    asked = (100, 300)
    before = tradeoff_data(DENSE, {"one": [TEN], "other": []}, asked=asked)
    live = replace(before, live=live_point("other", 100, right=5, done=10))
    assert places(before, 30.0) == places(live, 30.0)


def test_points_that_are_apart_stand_at_their_sparsity():
    xs = [t["x"][1] for t in chart(TWO)["data"] if t["name"] == "sparse"]
    assert xs == pytest.approx([100 * TEN.pruned.mlp_sparsity, 100 * THIRTY.pruned.mlp_sparsity])


def test_the_leader_is_drawn_strongest():
    first, second = [t for t in chart(TWO)["data"] if t["name"] == "sparse"]
    assert second["line"]["width"] > first["line"]["width"]


def test_eight_methods_have_eight_labels_that_do_not_touch():
    figure = chart(crowd())
    layout = figure["layout"]
    plot = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    found = [(plot * (1 - a["y"]), a["text"].count("<br>") + 1, a["font"]["size"]) for a in layout["annotations"]]
    assert len(found) == 9
    edges = sorted((y - 0.6 * size * n, y + 0.6 * size * n) for y, n, size in found)
    for (_, below), (above, _) in itertools.pairwise(edges):
        assert below <= above
    assert edges[0][0] >= 0 and edges[-1][1] <= plot


def test_eight_methods_leave_a_phone_room_for_the_plot():
    margin = chart(crowd())["layout"]["margin"]
    assert 358 - margin["l"] - margin["r"] >= 150


def test_a_label_that_had_to_move_is_tied_to_the_end_of_its_line():
    assert len(chart(crowd())["layout"]["shapes"]) >= 6
    assert "shapes" not in chart()["layout"]


def test_the_axis_does_not_move_while_a_run_fills_it():
    half = chart(tradeoff_data(DENSE, {"sparse": [TEN]}, asked=(100, 300)))
    assert half["layout"]["xaxis"]["range"][1] == pytest.approx(31.8)
    empty = chart(tradeoff_data(DENSE, {}, asked=(100, 300)))
    assert empty["layout"]["xaxis"] == half["layout"]["xaxis"]


def test_the_dense_model_alone_is_a_chart_too():
    for measure in ("share right", "accuracy", "word perplexity", "flips"):
        assert list(labels(chart(tradeoff_data(DENSE, {}), measure))) == ["dense"]


@pytest.mark.parametrize("right", [0, 120])
def test_the_range_holds_every_interval_and_never_leaves_0_to_100(right):
    record = specimens.record([True] * right + [False] * (120 - right))
    low, high = chart(tradeoff_data(record, {}))["layout"]["yaxis"]["range"]
    bottom, top = wilson_interval(right, 120)
    assert 0 <= low <= 100 * bottom
    assert 100 * top <= high <= 100


def test_axes_say_what_they_measure_and_their_unit():
    layout = chart()["layout"]
    assert layout["title"]["text"] == "Last word right, % of 120 passages"
    assert layout["xaxis"]["title"]["text"] == "MLP channels removed"
    assert layout["xaxis"]["ticksuffix"] == " %"
    assert layout["yaxis"]["ticktext"][:2] == ["20 %", "30 %"]


def test_each_theme_has_its_own_colours():
    for theme, palette in PALETTES.items():
        figure = chart(theme=theme)
        assert trace(figure, "dense")["line"]["color"] == palette.dense
        assert trace(figure, "sparse")["line"]["color"] == palette.sparse


def test_the_words_say_every_point_with_its_interval():
    said = tradeoff_words(RACE, "share right")
    assert said.startswith("Share of 120 last words right")
    assert "dense 50.0 % (41.2 to 58.8)" in said
    assert said.index("sparse at 10.4 % 45.0 %") < said.index("sparse at 29.2 % 25.0 %")


def test_a_sparse_point_knows_its_record_and_no_other_point_does():
    data = trace(chart(), "sparse")["customdata"]
    assert [clicked_record([{"customdata": point}]) for point in data] == ["", TEN.key, THIRTY.key]
    assert clicked_record([]) == clicked_record([{"x": 0}]) == clicked_record([{"customdata": "published"}]) == ""


def test_fewer_passages_than_dense_make_a_hollow_mark():
    few = replace(THIRTY, outcomes=THIRTY.outcomes[:40], stopping=STOPPED)
    symbols = trace(chart(tradeoff_data(DENSE, {"sparse": [TEN, few]})), "sparse")["marker"]["symbol"]
    assert symbols == ["circle", "circle", "circle-open"]


class TestPerplexity:
    def test_a_point_is_the_mean_change_of_the_log_likelihood_with_its_paired_interval(self):
        pairs = zip(DENSE.outcomes, TEN.outcomes, strict=True)
        changes = [sparse.log_likelihood - dense.log_likelihood for dense, sparse in pairs]
        (reading,) = read("word perplexity", DENSE, TEN)
        assert reading.value == pytest.approx(sum(changes) / 120)
        # Two losses are looked at, of perplexity and accuracy.
        assert (reading.low, reading.high) == pytest.approx(mean_interval(moments(changes), 0.05 / 2))
        assert trace(chart(measure="word perplexity"), "sparse")["y"][:2] == [0, reading.value]

    def test_its_factor_is_that_of_the_two_perplexities(self):
        (reading,) = read("word perplexity", DENSE, TEN)
        assert exp(-reading.value) == pytest.approx(TEN.word_perplexity / DENSE.word_perplexity)

    def test_it_is_compared_on_the_passages_that_both_answered(self):
        few = replace(TEN, outcomes=TEN.outcomes[30:], stopping=STOPPED)
        pairs = list(zip(DENSE.outcomes, TEN.outcomes, strict=True))[30:]
        (reading,) = read("word perplexity", DENSE, few)
        mean = sum(s.log_likelihood - d.log_likelihood for d, s in pairs) / len(pairs)
        assert reading.value == pytest.approx(mean)

    def test_one_passage_has_no_bar_which_would_be_as_high_as_the_chart(self):
        dense, sparse = (replace(record, outcomes=record.outcomes[:1]) for record in (DENSE, TEN))
        (reading,) = read("word perplexity", dense, sparse)
        lost = dense.outcomes[0].log_likelihood - sparse.outcomes[0].log_likelihood
        assert (reading.low, reading.value, reading.high) == (-lost, -lost, -lost)
        assert reading.words == f"{nats_as_factor(lost)} that of dense (no interval)"

    def test_the_axis_speaks_of_factors(self):
        axis = chart(measure="word perplexity")["layout"]["yaxis"]
        at = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
        assert at["1.00 ×"] == 0
        assert at["2.00 ×"] == pytest.approx(-log(2))

    @pytest.mark.parametrize("fall", [14.0, 25.0, 800.0, 1e200, 1e308])
    def test_a_hopeless_model_stands_at_the_edge_and_the_axis_stays_readable(self, fall):
        hopeless = replace(THIRTY, outcomes=tuple(replace(o, log_likelihood=-fall) for o in THIRTY.outcomes))
        (reading,) = read("word perplexity", DENSE, hopeless)
        assert reading.value == pytest.approx(-log(1_000_000), abs=2)
        if 20 < fall < 1e100:
            assert reading.words == "over 1,000,000 × that of dense (over 1,000,000 ×)"
        axis = chart(tradeoff_data(DENSE, {"sparse": [TEN, hopeless]}), "word perplexity")["layout"]["yaxis"]
        low, high = axis["range"]
        assert -17 < low < reading.low <= reading.high < high < 6.5
        assert 4 <= len(axis["ticktext"]) <= 8
        assert "1.00 ×" in axis["ticktext"]

    def test_a_model_that_is_far_better_than_dense_stands_at_the_other_edge(self):
        hopeless = replace(DENSE, outcomes=tuple(replace(o, log_likelihood=-800.0) for o in DENSE.outcomes))
        (reading,) = read("word perplexity", hopeless, TEN)
        assert reading.words == "under 0.01 × that of dense (under 0.01 ×)"
        axis = chart(tradeoff_data(hopeless, {"sparse": [TEN]}), "word perplexity")["layout"]["yaxis"]
        assert axis["range"][1] < 6 and len(axis["ticktext"]) >= 3

    def test_factors_are_short(self):
        assert [nats_as_factor(n) for n in (0, 0.0953, log(20), 1000)] == [
            "1.00 ×",
            "1.10 ×",
            "20 ×",
            "over 1,000,000 ×",
        ]
        assert [nats_as_factor(n) for n in (log(9.999), -log(3), -1000)] == ["10 ×", "0.33 ×", "under 0.01 ×"]


class TestFlips:
    def test_broken_answers_stand_below_zero_and_mended_ones_above(self):
        sparse = specimens.record([False] * 12 + [True] * 48 + [True] * 6 + [False] * 54, 200)
        figure = chart(tradeoff_data(DENSE, {"sparse": [sparse]}), "flips")
        assert trace(figure, "broke")["y"] == [0, -10]
        assert trace(figure, "mended")["y"] == [0, 5]
        assert set(labels(figure)) == {"dense", "broke", "fixed"}
        low, high = wilson_interval(12, 120)
        assert trace(figure, "broke")["error_y"]["array"][1] == pytest.approx(10 - 100 * low)
        assert trace(figure, "broke")["error_y"]["arrayminus"][1] == pytest.approx(100 * high - 10)

    def test_of_a_model_that_stopped_early_the_interval_holds_at_any_look(self):
        sparse = specimens.record([False] * 12 + [True] * 48 + [True] * 6 + [False] * 54, 200)
        broke, _ = read("flips", DENSE, replace(sparse, stopping=STOPPED))
        assert (-broke.high, -broke.low) == pytest.approx(
            [100 * bound for bound in share_interval(12, 120, anytime=True)]
        )
        low, high = (100 * bound for bound in wilson_interval(12, 120))
        assert -broke.high < low and high < -broke.low

    def test_the_axis_has_no_minus(self):
        texts = chart(measure="flips")["layout"]["yaxis"]["ticktext"]
        assert "0 %" in texts and not any("-" in text for text in texts)

    def test_they_are_told_in_words(self):
        assert "sparse at 29.2 % 30 broke, 0 fixed" in tradeoff_words(RACE, "flips")


class TestTheLivePoint:
    LIVE = live_point("sparse", 200, right=30, done=80)

    def test_it_stands_at_the_sparsity_asked_for_with_the_interval_of_what_it_has(self):
        point = trace(chart(replace(RACE, live=self.LIVE)), "live")
        assert (point["x"], point["y"]) == ([20.0], [37.5])
        low, high = wilson_interval(30, 80)
        assert point["error_y"]["array"] == pytest.approx([100 * high - 37.5])
        assert point["error_y"]["arrayminus"] == pytest.approx([37.5 - 100 * low])

    def test_it_stands_apart_from_another_methods_point(self):
        live = replace(self.LIVE, label="magnitude", permille=100)
        point = trace(chart(replace(TWO, live=live)), "live")
        assert point["x"][0] < 100 * TEN.pruned.mlp_sparsity - 0.4

    def test_it_moves_as_answers_come(self):
        later = live_point("sparse", 200, right=32, done=100)
        assert trace(chart(replace(RACE, live=later)), "live")["y"] == [32.0]

    def test_a_method_that_has_no_record_yet_has_its_label_already(self):
        coming = replace(TWO, lines={**TWO.lines, "random": []})
        live = replace(self.LIVE, label="random")
        assert "◆ random" not in labels(chart(coming))
        assert "◆ random" in labels(chart(replace(coming, live=live)))
        assert "◆ random" not in labels(chart(replace(coming, live=live), "flips"))

    def test_nothing_moves_aside_when_a_method_comes_in(self):
        coming = chart(replace(TWO, lines={**TWO.lines, "a-much-longer-name": []}))
        there = chart(replace(TWO, lines={**TWO.lines, "a-much-longer-name": RACE.lines["sparse"][:1]}))
        for key in ("margin", "height", "xaxis"):
            assert coming["layout"][key] == there["layout"][key]
        assert trace(coming, "sparse")["x"] == trace(there, "sparse")["x"]

    def test_another_measure_waits_for_the_record(self):
        figure = chart(replace(RACE, live=self.LIVE), "flips")
        assert "live" not in {t["name"] for t in figure["data"]}


def verdict_signs(figure):
    """The signs under the axis: the text of every row's notes, from the first row down."""
    below = [note for note in figure["layout"]["annotations"] if note.get("yshift", 0) < 0]
    rows = sorted({note["yshift"] for note in below}, reverse=True)
    return [[note["text"] for note in below if note["yshift"] == row] for row in rows]


def judged(tradeoff, **verdicts):
    """The chart's data with these verdicts, by line, from left to right."""
    lines = {
        label: [
            replace(point, verdict=verdict)
            for point, verdict in zip(sorted(points, key=lambda p: p.sparsity), verdicts[label], strict=True)
        ]
        for label, points in tradeoff.lines.items()
    }
    return replace(tradeoff, lines=lines, allowed={"word perplexity": log(1.1), "accuracy": 2.0})


def test_verdicts_of_several_methods_stand_in_rows_under_the_axis_by_shape_and_colour():
    both = tradeoff_data(DENSE, {"flap": [TEN, THIRTY], "magnitude": [TEN, THIRTY]})
    data = judged(both, flap=("within", "undecided"), magnitude=("within", "beyond"))
    figure = chart(data, "word perplexity")
    assert verdict_signs(figure) == [["●", "✓", "?"], ["■", "✓", "✕"]]
    below = [note for note in figure["layout"]["annotations"] if note.get("yshift", 0) < 0]
    ink = {note["text"]: note["font"]["color"] for note in below}
    colours = PALETTES["light"]
    assert (ink["✓"], ink["✕"], ink["?"]) == (colours.mended, colours.broke, colours.muted)
    # One below the other, whatever moved their marks apart.
    assert len({note["x"] for note in below if note["text"] in "✓✕?"}) == 2
    assert verdict_signs(chart(data, "flips")) == []


def test_verdicts_of_one_method_stand_at_their_marks():
    data = judged(RACE, sparse=("within", "beyond"))
    figure = chart(data, "word perplexity")
    assert trace(figure, "sparse")["text"] == ["", "✓", "✕"]
    assert verdict_signs(figure) == []
    assert ", within; " in tradeoff_words(data, "word perplexity")


MEASURE = "word perplexity"


def far_point(key: str, permille: int, nats: float, spread: float = 0.1, **more) -> Point:
    """A model that lost this much; upwards is better."""
    words = f"{nats_as_factor(nats)} that of dense"
    one = Reading(role="sparse", value=-nats, low=-nats - spread, high=-nats + spread, words=words)
    other = Reading(role="sparse", value=-1.0, low=-2.0, high=0.0, words="")
    readings = {MEASURE: (one,), "accuracy": (other,), "flips": (other,), "share right": (other,)}
    return Point(key=key, permille=permille, sparsity=permille / 10, readings=readings, facts=[], **more)


def race(**lines: list[Point]) -> TradeoffData:
    return TradeoffData(
        dense=far_point("dense", 0, 0.0, 0.0),
        lines=lines,
        n_passages=132,
        taken="MLP channels removed",
        leader="good",
        allowed={MEASURE: log(1.1), "accuracy": 2.0},
    )


GOOD = [far_point("g1", 100, 0.1), far_point("g2", 200, 0.4), far_point("g3", 300, 0.8)]
FAIR = [far_point("f1", 100, 0.2), far_point("f2", 200, 0.9), far_point("f3", 300, 7.0, verdict="beyond")]
HOPELESS = [far_point(f"h{p}", p, nats, verdict="beyond") for p, nats in ((100, 7.0), (200, 9.5), (300, 13.8155106))]
FAR_RACE = race(good=GOOD, fair=FAIR, hopeless=HOPELESS)


def far_chart(data=FAR_RACE, measure=MEASURE):
    return drawn(tradeoff_chart(data, measure))


def far_said(figure):
    """What stands at the edge, with the arrows counted."""
    notes = [note for note in figure["layout"]["annotations"] if note.get("xref") == "x" and note.get("yref") == "y"]
    return [note["text"] for note in notes if note["text"]], sum(note["showarrow"] for note in notes)


def test_the_axis_follows_the_leading_line_and_no_hopeless_point():
    low, high = far_chart()["layout"]["yaxis"]["range"]
    assert -1.6 < low < -1.0 and 0.0 < high < 0.5


def test_points_at_the_edge_say_their_value_beside_an_arrow_and_keep_their_words():
    texts, n_arrows = far_said(far_chart())
    assert texts == ["■ 1.1k×<br>◆ >1M×", "1.1k×", "13k×"]
    assert n_arrows == 4
    for marks in (t for t in far_chart()["data"] if t["name"] == "sparse"):
        assert all(y is None or y > -1.6 for y in marks["y"])
    assert "1,097 × that of dense" in tradeoff_words(FAR_RACE)


def test_the_line_leads_to_where_the_point_belongs_and_is_cut_off_by_the_plot():
    lines = [t for t in far_chart()["data"] if t["name"] == "line"]
    assert [min(t["y"]) for t in lines] == pytest.approx([-7.0, -13.8155106])
    assert all(t.get("cliponaxis", True) for t in lines)
    whole = far_chart(race(good=GOOD))
    assert [t["mode"] for t in whole["data"] if t["name"] == "sparse"] == ["lines+markers+text"]


def test_a_point_at_the_edge_can_still_be_clicked():
    marks = [t for t in far_chart()["data"] if t["name"] == "sparse"][-1]
    assert [data[1] for data in marks["customdata"]] == ["", "h100", "h200", "h300"]


def test_beside_the_edge_stands_no_number_of_the_axis():
    axis = far_chart()["layout"]["yaxis"]
    edge = min(y for t in far_chart()["data"] if t["name"] == "sparse" for y in t["y"])
    assert min(axis["tickvals"]) > edge > axis["range"][0]


def test_what_is_undecided_and_what_the_others_leave_room_for_stays_where_it_belongs():
    unknown = race(good=GOOD, other=[far_point("o", 300, 7.0, verdict="undecided")])
    assert clip_far_points(unknown, MEASURE) == unknown
    wide = race(good=GOOD, other=[far_point("w", 100, 1.2, spread=8.0), far_point("x", 200, 8.0)])
    assert clip_far_points(wide, MEASURE) == wide


def test_up_to_twelve_times_what_may_be_lost_a_point_stays_where_it_belongs():
    sharp = race(good=[far_point(f"s{p}", p, nats, spread=0.01) for p, nats in ((100, 0.01), (200, 0.02), (300, 1.1))])
    assert clip_far_points(sharp, MEASURE) == sharp


def test_where_everything_is_hopeless_nothing_is_moved():
    alone = race(good=HOPELESS)
    assert clip_far_points(alone, MEASURE) == alone
    assert far_words(alone, MEASURE) == ""


def test_other_measures_which_have_bounds_are_drawn_whole():
    assert clip_far_points(FAR_RACE, "accuracy") == FAR_RACE
    assert far_said(far_chart(measure="accuracy")) == ([], 0)


def test_the_arrow_is_explained_where_there_is_one():
    assert "farther down" in far_words(FAR_RACE, MEASURE)
    assert far_words(race(good=GOOD), MEASURE) == ""


def test_values_are_short_enough_for_five_beside_each_other_on_a_phone():
    nats = [log(factor) for factor in (12.0, 934.0, 1071.0, 12_800.0, 650_000.0, 1e6)]
    assert [short_times(n) for n in nats] == ["12×", "934×", "1.1k×", "13k×", "650k×", ">1M×"]


def test_the_gain_chart_moves_the_same_points():
    gains = {p.key: Gain(value=1.0 + i / 10, low=1.0, high=2.0, words="") for i, p in enumerate(FAR_RACE.sparse)}
    figure = drawn(gain_chart(FAR_RACE, Gained(name="bytes", gains=gains), MEASURE))
    texts, n_arrows = far_said(figure)
    assert n_arrows == len(texts) == 4
    assert min(trace(figure, "unbeaten")["y"]) == pytest.approx(-13.8155106)


PUBLISHED_DENSE = replace(
    RECORD,
    model="facebook/opt-1.3b",
    corpus="lambada_openai",
    pruned=None,
    outcomes=tuple(outcome(i, right=i % 2 == 0) for i in range(40)),
)
PUBLISHED_SPARSE = replace(PUBLISHED_DENSE, pruned=replace(PRUNED, mlp_sparsity=0.05))
ROWS = published_beside(PUBLISHED_DENSE)
PUBLISHED_RACE = tradeoff_data(PUBLISHED_DENSE, {"sparse": [PUBLISHED_SPARSE]}, published=ROWS)


def test_a_row_stands_beside_the_same_model_passages_and_format():
    (row,) = ROWS
    assert (row.model, row.dtype) == ("facebook/opt-1.3b", "float32")
    (half,) = published_beside(replace(PUBLISHED_DENSE, dtype="bfloat16"))
    assert half.dense == 0.5629
    assert published_beside(replace(PUBLISHED_DENSE, model="huggyllama/llama-7b"))[0].dense == 0.7361
    assert published_beside(replace(PUBLISHED_DENSE, corpus="lambada")) == ()
    assert published_beside(replace(PUBLISHED_DENSE, model="gpt2")) == ()


def test_points_are_grey_diamonds_within_the_axes_and_told_in_words():
    figure = drawn(tradeoff_chart(PUBLISHED_RACE, "share right"))
    points = trace(figure, "published")
    assert points["x"] == [0, 10]
    assert points["y"] == [57.89, 56.86]
    assert points["marker"]["symbol"] == ["diamond-open", "diamond"]
    assert figure["layout"]["xaxis"]["range"][1] > 10
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < 56.86 and high > 57.89
    assert tradeoff_words(PUBLISHED_RACE, "share right").endswith(" Published: dense 57.89 %, at 10 % 56.86 %.")


def test_another_measure_than_the_share_right_has_no_published_points():
    names = {t["name"] for t in drawn(tradeoff_chart(PUBLISHED_RACE, "flips"))["data"]}
    assert "published" not in names
    assert "Published" not in tradeoff_words(PUBLISHED_RACE, "flips")


def test_without_rows_there_is_nothing():
    figure = drawn(tradeoff_chart(replace(PUBLISHED_RACE, published=())))
    assert "published" not in {t["name"] for t in figure["data"]}
