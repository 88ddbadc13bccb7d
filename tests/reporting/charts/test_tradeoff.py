"""The race of methods: what stands where, told by more than colour, for each measure."""

import itertools
from dataclasses import replace
from math import exp, log

import pytest

from sparsedash.catalog.presets import METHODS
from sparsedash.reporting.charts.chart_style import PALETTES
from sparsedash.reporting.charts.tradeoff_chart import clicked_record, places, tradeoff_chart, tradeoff_words
from sparsedash.reporting.charts.tradeoff_data import nats_as_factor
from sparsedash.reporting.run_results import answering
from sparsedash.stats.mean_intervals import mean_interval, moments
from sparsedash.stats.significance import share_interval, wilson_interval
from sparsedash.stats.tolerance import Tolerance, judge_all, record_losses
from tests.factories import STOPPED
from tests.reporting.charts.drawn import drawn, labels, trace
from tests.reporting.charts.pointed import read, tradeoff_data
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
    live = replace(before, live=answering("other", 100, right=5, done=10))
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
        assert set(labels(figure)) == {"dense", "broke", "mended"}
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
        assert "sparse at 29.2 % 30 broke, 0 mended" in tradeoff_words(RACE, "flips")


class TestTheLivePoint:
    LIVE = answering("sparse", 200, right=30, done=80)

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
        later = answering("sparse", 200, right=32, done=100)
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
