"""The trade-off chart: what stands where, told by more than colour, for each measure."""

from collections import defaultdict
from dataclasses import replace
from itertools import chain
from math import exp, log

import pytest

from sparsedash.reporting.charts.chart_style import PALETTES
from sparsedash.reporting.charts.tradeoff_chart import (
    clicked_record,
    far_words,
    gain_chart,
    gain_words,
    tradeoff_chart,
    tradeoff_words,
)
from sparsedash.reporting.charts.tradeoff_data import (
    GainAxis,
    Point,
    Reading,
    TradeoffData,
    loss_axis,
)
from sparsedash.reporting.tradeoff_points import live_point, published_beside
from sparsedash.reporting.wording import nats_as_factor
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.significance import share_interval, wilson_interval
from sparsedash.stats.tolerance import judge_all, record_losses
from tests.factories import PRUNED, RECORD, STOPPED, outcome
from tests.reporting.charts.drawn import drawn, labels, read, trace, tradeoff_data
from tests.ui import specimens

PERPLEXITY = "word perplexity"
DENSE = specimens.record([True] * 60 + [False] * 60)
TEN = specimens.record([True] * 54 + [False] * 66, 100)
THIRTY = specimens.record([True] * 30 + [False] * 90, 300)
RACE = tradeoff_data(DENSE, {"sparse": [THIRTY, TEN]})
TWO = tradeoff_data(
    DENSE,
    {"least-squares": [TEN], "magnitude": [THIRTY]},
    leader="magnitude",
)


def chart(tradeoff=RACE, measure="share right", theme="light"):
    return drawn(tradeoff_chart(tradeoff, measure, theme))


def sparse_traces(figure):
    return [t for t in figure["data"] if t["name"] == "sparse"]


def answering(tradeoff, label, point):
    """The same chart with a model that is answering."""
    return replace(
        tradeoff,
        lines={
            **tradeoff.lines,
            label: [*tradeoff.lines.get(label, ()), point],
        },
    )


def test_a_line_leads_from_dense_by_measured_sparsity_with_an_interval_at_every_point():
    line = trace(chart(), "line")
    marks = trace(chart(), "sparse")
    assert (
        line["x"]
        == [
            0.0,
            100 * TEN.pruned.reached.channels,
            100 * THIRTY.pruned.reached.channels,
        ]
        == [0.0, *marks["x"]]
    )
    assert line["y"] == [50.0, 45.0, 25.0] == [50.0, *marks["y"]]
    low, high = wilson_interval(30, 120)
    bars = marks["error_y"]
    assert (bars["array"][-1], bars["arrayminus"][-1]) == pytest.approx(
        (100 * high - 25, 25 - 100 * low)
    )
    assert [clicked_record([{"customdata": data}]) for data in marks["customdata"]] == [
        TEN.key,
        THIRTY.key,
    ]
    assert (
        clicked_record([])
        == clicked_record([{"x": 0}])
        == clicked_record([{"customdata": "published"}])
        == ""
    )


def test_accuracy_is_drawn_as_points_more_or_fewer_than_dense_with_the_interval_of_its_verdict():
    figure = chart(measure="accuracy")
    change = trace(figure, "sparse")
    marks = figure["layout"]["yaxis"]
    assert change["y"] == [pytest.approx(-5.0), pytest.approx(-25.0)]
    (alone,) = judge_all([record_losses(DENSE, THIRTY)], Tolerance())
    assert change["error_y"]["arrayminus"][-1] == pytest.approx(
        100 * alone.accuracy.high - 25
    )
    assert change["error_y"]["array"][-1] == pytest.approx(
        25 - 100 * alone.accuracy.low
    )
    assert dict(
        zip(
            marks["tickvals"],
            marks["ticktext"],
            strict=True,
        )
    ) == {
        -30: "−30",
        -20: "−20",
        -10: "−10",
        0: "0",
    }


def test_the_dense_line_and_its_band_cross_the_whole_chart():
    figure = chart()
    start, right = figure["layout"]["xaxis"]["range"]
    line = trace(figure, "dense")
    band = trace(figure, "dense interval")
    assert (line["x"], line["y"]) == ([start, right], [50.0, 50.0])
    assert (min(band["x"]), max(band["x"])) == (start, right)
    assert (min(band["y"]), max(band["y"])) == pytest.approx(
        [100 * b for b in wilson_interval(60, 120)]
    )
    low, high = figure["layout"]["yaxis"]["range"]
    assert labels(figure) == pytest.approx(
        {
            "dense": (50 - low) / (high - low),
            "sparse": (25 - low) / (high - low),
        }
    )
    assert (
        figure["layout"]["xaxis"]["ticksuffix"] == " %"
        and figure["layout"]["yaxis"]["ticktext"][0] == "20 %"
    )


def test_methods_differ_by_mark_dash_and_colour_as_their_labels_show_and_the_leader_is_strongest():
    figure = chart(TWO)
    first, second = sparse_traces(figure)
    first_line, second_line = (t["line"] for t in figure["data"] if t["name"] == "line")
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
    assert (
        first_line["dash"] != second_line["dash"]
        and second_line["width"] > first_line["width"]
    )
    inks = [note["font"]["color"] for note in figure["layout"]["annotations"]]
    assert (
        inks
        == [
            PALETTES["light"].dense,
            first_line["color"],
            second_line["color"],
        ]
        and len(set(inks)) == 3
    )
    assert set(labels(figure)) == {"dense", "● least-squares", "■ magnitude"}
    ends = [100 * record.pruned.reached.channels for record in (TEN, THIRTY)]
    assert [t["x"][0] for t in (first, second)] == pytest.approx(ends), (
        "points that are apart stay where they are"
    )


def test_all_but_a_highlighted_line_are_grey_and_without_bars():
    figure = chart(replace(TWO, highlighted="least-squares"))
    colours = PALETTES["light"]
    faded, strong = (t for t in figure["data"] if t["name"] == "sparse")
    assert (faded["marker"]["color"], strong["marker"]["color"]) == (
        colours.faded,
        colours.lines[0],
    )
    assert "error_y" not in faded and "error_y" in strong
    assert chart(replace(TWO, highlighted="gone")) == chart(TWO)


def test_a_leader_line_leads_from_a_line_that_ends_early_to_its_label():
    early = chart(
        tradeoff_data(
            DENSE,
            {"sparse": [TEN]},
            planned=(100, 300),
        )
    )
    gutter, across = early["layout"]["shapes"]
    end = 100 * TEN.pruned.reached.channels
    right = early["layout"]["xaxis"]["range"][1]
    assert (across["xref"], across["x0"], across["x1"]) == ("x", end, right)
    assert (
        gutter["y0"]
        == gutter["y1"]
        == across["y0"]
        == pytest.approx(labels(early)["sparse"])
    )
    assert "shapes" not in chart()["layout"] or chart()["layout"]["shapes"] == []


def test_nothing_moves_while_a_run_fills_the_chart():
    permilles = (100, 300)
    half, empty = (
        chart(tradeoff_data(DENSE, lines, planned=permilles))
        for lines in ({"sparse": [TEN]}, {})
    )
    assert half["layout"]["xaxis"]["range"][1] == pytest.approx(31.8)
    assert empty["layout"]["xaxis"] == half["layout"]["xaxis"]
    coming = replace(TWO, lines={**TWO.lines, "a-much-longer-name": []})
    live = answering(
        coming,
        "a-much-longer-name",
        live_point(100, right=5, done=10),
    )
    before = chart(coming)
    after = chart(live)
    assert all(
        before["layout"][key] == after["layout"][key]
        for key in ("margin", "height", "xaxis")
    )
    assert set(labels(after)) - set(labels(before)) == {"◆ a-much-<br>longer-name"}


def test_the_range_holds_every_interval_and_never_leaves_0_to_100():
    for right in (0, 120):
        record = specimens.record([True] * right + [False] * (120 - right))
        low, high = chart(tradeoff_data(record, {}))["layout"]["yaxis"]["range"]
        bottom, top = wilson_interval(right, 120)
        assert 0 <= low <= 100 * bottom and 100 * top <= high <= 100


def test_the_words_say_every_point_with_its_interval():
    text = tradeoff_words(RACE, "share right")
    assert (
        text.startswith("Share of last words right over 120 passages")
        and "dense 50.0 % (41.2 to 58.8)" in text
    )
    assert text.index("sparse at 10.4 % 45.0 %") < text.index("sparse at 29.2 % 25.0 %")
    assert "sparse at 29.2 % 30 broke, 0 fixed" in tradeoff_words(RACE, "flips")


def test_fewer_passages_than_dense_make_a_hollow_mark():
    few = replace(
        THIRTY,
        outcomes=THIRTY.outcomes[:40],
        stopping=STOPPED,
    )
    symbols = trace(
        chart(tradeoff_data(DENSE, {"sparse": [TEN, few]})),
        "sparse",
    )["marker"]["symbol"]
    assert symbols == ["circle", "circle-open"]


def test_perplexity_is_the_change_of_the_log_likelihood_with_the_interval_of_its_verdict():
    (reading,) = read(PERPLEXITY, DENSE, TEN)
    (alone,) = judge_all([record_losses(DENSE, TEN)], Tolerance())
    lost = alone.perplexity
    assert (reading.low, reading.value, reading.high) == (
        -lost.high,
        -lost.value,
        -lost.low,
    )
    assert exp(-reading.value) == pytest.approx(
        TEN.word_perplexity / DENSE.word_perplexity
    )
    assert trace(chart(measure=PERPLEXITY), "sparse")["y"][0] == reading.value
    # One passage has no bar, which would be as high as the chart.
    (reading,) = read(
        PERPLEXITY,
        *(replace(record, outcomes=record.outcomes[:1]) for record in (DENSE, TEN)),
    )
    assert reading.low == reading.value == reading.high and reading.words.endswith(
        " that of dense (no interval)"
    )


def test_the_axis_of_perplexity_speaks_of_factors_and_that_of_flips_has_no_minus():
    axis = chart(measure=PERPLEXITY)["layout"]["yaxis"]
    place = dict(
        zip(
            axis["ticktext"],
            axis["tickvals"],
            strict=True,
        )
    )
    assert place["1.00 ×"] == 0 and place["2.00 ×"] == pytest.approx(-log(2))
    texts = chart(measure="flips")["layout"]["yaxis"]["ticktext"]
    assert "0 %" in texts and not any("-" in text for text in texts)


@pytest.mark.parametrize("fall", [25.0, 1e308])
def test_a_hopeless_model_stands_at_the_edge_and_the_axis_stays_readable(fall):
    hopeless = replace(
        THIRTY,
        outcomes=tuple(replace(o, log_likelihood=-fall) for o in THIRTY.outcomes),
    )
    (reading,) = read(PERPLEXITY, DENSE, hopeless)
    assert reading.value == pytest.approx(-log(1_000_000), abs=2)
    assert reading.words.startswith("over 1,000,000 × that of dense (")
    axis = chart(
        tradeoff_data(DENSE, {"sparse": [TEN, hopeless]}),
        PERPLEXITY,
    )["layout"]["yaxis"]
    low, high = axis["range"]
    assert -17 < low < reading.low <= reading.high < high < 6.5
    assert 4 <= len(axis["ticktext"]) <= 8 and "1.00 ×" in axis["ticktext"]
    better = tradeoff_data(hopeless, {"sparse": [TEN]})
    (reading,) = read(PERPLEXITY, hopeless, TEN)
    assert (
        reading.words.startswith("under 0.01 × that of dense (")
        and loss_axis(better, PERPLEXITY).range[1] < 6
    )


def test_broken_answers_stand_below_zero_and_fixed_ones_above_with_their_intervals():
    sparse = specimens.record(
        [False] * 12 + [True] * 48 + [True] * 6 + [False] * 54,
        200,
    )
    figure = chart(
        tradeoff_data(
            DENSE,
            {"sparse": [replace(sparse, stopping=STOPPED)]},
        ),
        "flips",
    )
    broke = trace(figure, "broke")
    assert (broke["y"], trace(figure, "fixed")["y"]) == ([-10], [5])
    assert set(labels(figure)) == {"dense", "broke", "fixed"}
    low, high = (100 * bound for bound in share_interval(12, 120, anytime=True))
    assert (
        broke["error_y"]["array"][0],
        broke["error_y"]["arrayminus"][0],
    ) == pytest.approx((10 - low, high - 10))


def test_the_live_point_stands_at_the_sparsity_asked_for_and_moves_as_answers_come():
    race = answering(
        RACE,
        "sparse",
        live_point(200, right=30, done=80),
    )
    point = trace(chart(race), "live")
    assert (
        point["x"],
        point["y"],
        clicked_record([{"customdata": point["customdata"][0]}]),
    ) == (
        [20.0],
        [37.5],
        "",
    )
    _, high = wilson_interval(30, 80)
    assert point["error_y"]["array"] == pytest.approx([100 * high - 37.5])
    assert "live" not in {t["name"] for t in chart(race, "flips")["data"]}


def verdict_signs(figure):
    """The signs under the axis: the text of every row's notes, from the first row down."""
    rows = defaultdict(list)
    for note in figure["layout"]["annotations"]:
        if note["yref"] == "paper" and note.get("yshift", 0) < 0:
            rows[note["yshift"]].append(note["text"])
    return [texts for _, texts in sorted(rows.items(), reverse=True)]


def judged(tradeoff, **verdicts):
    """The chart's data with these verdicts, by line, from left to right."""
    lines = {
        label: [
            replace(
                point,
                verdicts={PERPLEXITY: verdict, "accuracy": "undecided"},
            )
            for point, verdict in zip(
                sorted(points, key=lambda p: p.sparsity),
                verdicts[label],
                strict=True,
            )
        ]
        for label, points in tradeoff.lines.items()
    }
    return replace(
        tradeoff,
        lines=lines,
        limits={PERPLEXITY: log(1.1), "accuracy": 2.0},
    )


def test_verdicts_stand_in_rows_under_the_axis_by_shape_and_colour():
    both = tradeoff_data(
        DENSE,
        {"flap": [TEN, THIRTY], "magnitude": [TEN, THIRTY]},
    )
    data = judged(
        both,
        flap=("within", "undecided"),
        magnitude=("within", "beyond"),
    )
    figure = chart(data, PERPLEXITY)
    assert verdict_signs(figure) == [["●", "✓", "?"], ["■", "✓", "✕"]]
    below = [
        note
        for note in figure["layout"]["annotations"]
        if note["yref"] == "paper" and note.get("yshift", 0) < 0
    ]
    ink = {note["text"]: note["font"]["color"] for note in below}
    colours = PALETTES["light"]
    assert (ink["✓"], ink["✕"], ink["?"]) == (
        colours.fixed,
        colours.broke,
        colours.muted,
    )
    assert len({note["x"] for note in below if note["text"] in "✓✕?"}) == 2
    assert verdict_signs(chart(data, "flips")) == []
    alone = judged(RACE, sparse=("within", "beyond"))
    assert verdict_signs(chart(alone, PERPLEXITY)) == [["verdict", "✓", "✕"]]
    assert ", within; " in tradeoff_words(alone, PERPLEXITY)
    # Their signs keep clear of each other where points are near.
    first, second = sorted(alone.lines["sparse"], key=lambda point: point.sparsity)
    near = replace(second, sparsity=first.sparsity + 0.5)
    notes = chart(replace(alone, lines={"sparse": [first, near]}), PERPLEXITY)[
        "layout"
    ]["annotations"]
    first, second = (note["x"] for note in notes if note["text"] in ("✓", "✕"))
    assert second - first > 0.5 and (first + second) / 2 == pytest.approx(
        near.sparsity - 0.25
    )
    # Each measure marks by its own verdict.
    assert verdict_signs(chart(alone, "accuracy")) == [["verdict", "?", "?"]]


def far_point(
    key: str, permille: int, nats: float, spread: float = 0.1, **more
) -> Point:
    """A model that lost this much; upwards is better."""
    words = f"{nats_as_factor(nats)} that of dense"
    one = Reading(
        value=-nats,
        low=-nats - spread,
        high=-nats + spread,
        words=words,
    )
    second = Reading(
        value=-1.0,
        low=-2.0,
        high=0.0,
        words="",
    )
    readings = {
        PERPLEXITY: (one,),
        "accuracy": (second,),
        "flips": (second,),
        "share right": (second,),
    }
    return Point(
        key=key,
        permille=permille,
        sparsity=permille / 10,
        readings=readings,
        facts=[],
        **more,
    )


def far_race(**lines: list[Point]) -> TradeoffData:
    return TradeoffData(
        dense=far_point("dense", 0, 0.0, 0.0),
        lines=lines,
        n_passages=132,
        sparsity_title="MLP channels removed",
        leader="good",
        limits={PERPLEXITY: log(1.1), "accuracy": 2.0},
    )


BEYOND = {PERPLEXITY: "beyond"}
GOOD = [
    far_point("g1", 100, 0.1),
    far_point("g2", 200, 0.4),
    far_point("g3", 300, 0.8),
]
FAIR = [
    far_point("f1", 100, 0.2),
    far_point("f2", 200, 0.9),
    far_point(
        "f3",
        300,
        7.0,
        verdicts=BEYOND,
    ),
]
FAR = [
    far_point(
        f"h{p}",
        p,
        nats,
        verdicts=BEYOND,
    )
    for p, nats in ((100, 7.0), (200, 9.5), (300, 13.8155106))
]
FAR_RACE = far_race(good=GOOD, fair=FAIR, hopeless=FAR)


def n_arrows(figure):
    """How many arrows stand at the edge."""
    return sum(note["showarrow"] for note in figure["layout"]["annotations"])


def test_far_points_stand_at_the_edge_with_an_arrow_and_the_axis_follows_the_leader():
    figure = chart(FAR_RACE, PERPLEXITY)
    axis = figure["layout"]["yaxis"]
    marks = sparse_traces(figure)
    assert -1.6 < axis["range"][0] < -1.0 and 0.0 < axis["range"][1] < 0.5
    assert n_arrows(figure) == 4
    heights = chain.from_iterable(t["y"] for t in marks)
    assert min(axis["tickvals"]) > min(heights) > axis["range"][0] > -1.6, (
        "no number stands beside the edge"
    )
    assert [data[1] for data in marks[-1]["customdata"]] == ["g1", "g2", "g3"], (
        "the leader is on top"
    )
    assert "1,097 × that of dense" in tradeoff_words(FAR_RACE)
    assert "farther down" in far_words(FAR_RACE, PERPLEXITY)
    lines = [t for t in figure["data"] if t["name"] == "line"]
    assert sorted(min(t["y"]) for t in lines) == pytest.approx(
        [-13.8155106, -7.0, -0.8]
    ), "cut off by the plot"
    assert n_arrows(chart(FAR_RACE, "accuracy")) == 0, "which has bounds"
    gains = {
        p.key: Reading(
            value=1.0 + i / 10,
            low=1.0,
            high=2.0,
            words="",
        )
        for i, p in enumerate(FAR_RACE.sparse)
    }
    gained = drawn(
        gain_chart(
            FAR_RACE,
            GainAxis(name="bytes", gains=gains),
            PERPLEXITY,
        )
    )
    assert n_arrows(gained) == 4
    assert min(trace(gained, "unbeaten")["y"]) == pytest.approx(-13.8155106)


@pytest.mark.parametrize(
    "tradeoff",
    [
        far_race(
            good=GOOD,
            other=[
                far_point(
                    "o",
                    300,
                    7.0,
                    verdicts={PERPLEXITY: "undecided"},
                )
            ],
        ),
        far_race(
            good=GOOD,
            other=[
                far_point(
                    "w",
                    100,
                    1.2,
                    spread=8.0,
                ),
                far_point("x", 200, 8.0),
            ],
        ),
        far_race(
            good=[
                far_point(
                    f"s{p}",
                    p,
                    nats,
                    0.01,
                )
                for p, nats in ((100, 0.01), (200, 0.02), (300, 1.1))
            ]
        ),
        far_race(good=FAR),
        far_race(good=GOOD),
    ],
    ids=[
        "undecided",
        "others-leave-room",
        "twelve-tolerances",
        "all-hopeless",
        "none-far",
    ],
)
def test_other_points_stay_where_they_belong(tradeoff):
    low, _ = loss_axis(tradeoff, PERPLEXITY).range
    assert low < min(point.readings[PERPLEXITY][0].low for point in tradeoff.sparse)
    assert n_arrows(chart(tradeoff, PERPLEXITY)) == 0
    assert far_words(tradeoff, PERPLEXITY) == ""


OPT = replace(
    RECORD,
    model="facebook/opt-1.3b",
    corpus="lambada_openai",
    pruned=None,
    outcomes=tuple(outcome(i, right=i % 2 == 0) for i in range(40)),
)
ROWS = published_beside(OPT)
OPT_RACE = tradeoff_data(
    OPT,
    {
        "sparse": [
            replace(
                OPT,
                pruned=replace(PRUNED, reached=replace(PRUNED.reached, channels=0.05)),
            )
        ]
    },
    published=ROWS,
)


def test_a_published_row_of_the_same_model_passages_and_format_is_a_grey_diamond_within_the_axes():
    (row,) = ROWS
    (half,) = published_beside(replace(OPT, dtype="bfloat16"))
    assert (row.model, row.dtype, half.dense) == (
        "facebook/opt-1.3b",
        "float32",
        0.5629,
    )
    assert (
        published_beside(replace(OPT, model="huggyllama/llama-7b"))[0].dense == 0.7361
    )
    assert (
        published_beside(replace(OPT, corpus="lambada"))
        == ()
        == published_beside(replace(OPT, model="gpt2"))
    )
    figure = drawn(tradeoff_chart(OPT_RACE, "share right"))
    points = trace(figure, "published")
    (low, high) = figure["layout"]["yaxis"]["range"]
    assert (points["x"], points["y"]) == ([0, 10], [57.89, 56.86])
    assert points["marker"]["symbol"] == ["diamond-open", "diamond"]
    assert figure["layout"]["xaxis"]["range"][1] > 10 and low < 56.86 and high > 57.89
    assert tradeoff_words(OPT_RACE, "share right").endswith(
        " Published: dense 57.89 %, at 10 % 56.86 %."
    )


def gain(value, wide=0.0):
    return Reading(
        value=value,
        low=value - wide,
        high=value + wide,
        words=f"{value:.2f} × as fast",
    )


@pytest.fixture
def tradeoff():
    _, (dense, *sparse) = specimens.run()
    return tradeoff_data(dense, {"one": sparse[:2], "other": sparse[2:]})


def keys(tradeoff):
    return [point.key for point in tradeoff.sparse]


def test_known_gains_stand_at_what_they_win_with_both_intervals(tradeoff):
    first, second, _ = keys(tradeoff)
    gained = GainAxis(
        name="Speed",
        gains={first: gain(1.1, 0.05), second: gain(0.9)},
    )
    figure = drawn(gain_chart(tradeoff, gained, "accuracy"))
    one = trace(figure, "one")
    assert one["x"] == [1.1, 0.9] and figure["layout"]["xaxis"]["range"][0] < 0.9
    assert one["error_x"]["array"] == pytest.approx([0.05, 0])
    assert one["y"] == [
        point.readings["accuracy"][0].value for point in tradeoff.lines["one"]
    ]
    assert [data[1] for data in one["customdata"]] == [first, second]
    assert "other" not in [t["name"] for t in figure["data"]]
    assert (
        trace(
            drawn(
                gain_chart(
                    tradeoff,
                    gained,
                    "flips",
                    "dark",
                )
            ),
            "across",
        )["line"]["color"]
        == "#8DB4E8"
    )


def at_share(point, value):
    reading = Reading(
        value=value,
        low=value,
        high=value,
        words=f"{value} %",
    )
    return replace(
        point,
        readings={**point.readings, "share right": (reading,)},
    )


def test_the_line_joins_dense_and_those_that_nobody_beats(tradeoff):
    first, second, third = tradeoff.sparse
    known = replace(
        tradeoff,
        dense=at_share(tradeoff.dense, 50.0),
        lines={
            "one": [at_share(first, 48.0), at_share(second, 46.0)],
            "other": [at_share(third, 44.0)],
        },
    )
    # The third wins less than the second and loses more.
    gained = GainAxis(
        name="Speed",
        gains={
            first.key: gain(1.1),
            second.key: gain(1.2),
            third.key: gain(1.15),
        },
    )
    front = trace(
        drawn(gain_chart(known, gained, "share right")),
        "unbeaten",
    )
    assert (front["x"], front["y"]) == ([1.0, 1.1, 1.2], [50.0, 48.0, 46.0])
    assert gain_words(known, gained, "share right").count("on the Pareto front") == 2
    # Over tasks an easy one of a model would stand for the model.
    of_tasks = {"tasks": known.sparse[0].readings["share right"]}
    tasks = {
        label: [replace(p, readings=of_tasks) for p in points]
        for label, points in known.lines.items()
    }
    over = replace(known, lines=tasks)
    assert "on the Pareto front" not in gain_words(over, gained, "tasks")
    figure = drawn(gain_chart(over, gained, "tasks"))
    assert "unbeaten" not in [drawn["name"] for drawn in figure["data"]]
    assert (
        sum(note["text"].endswith(" %") for note in figure["layout"]["annotations"])
        == 3
    )
