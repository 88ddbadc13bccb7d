"""Published points on the chart of right answers: where the model, the passages and the format are the same, and
nowhere else.
"""

from dataclasses import replace

from sparsedash.reporting.charts.tradeoff_chart import published_words, tradeoff_chart, tradeoff_words
from sparsedash.reporting.run_results import published_beside
from tests.factories import PRUNED, RECORD, outcome
from tests.reporting.charts.drawn import drawn, trace
from tests.reporting.charts.pointed import tradeoff_data

DENSE = replace(
    RECORD,
    model="facebook/opt-1.3b",
    corpus="lambada_openai",
    pruned=None,
    outcomes=tuple(outcome(i, right=i % 2 == 0) for i in range(40)),
)
SPARSE = replace(DENSE, pruned=replace(PRUNED, mlp_sparsity=0.05))
ROWS = published_beside(DENSE)
RACE = tradeoff_data(DENSE, {"sparse": [SPARSE]}, published=ROWS)


def test_a_row_stands_beside_the_same_model_passages_and_format():
    (row,) = ROWS
    assert (row.model, row.dtype) == ("facebook/opt-1.3b", "float32")
    (half,) = published_beside(replace(DENSE, dtype="bfloat16"))
    assert half.dense == 0.5629
    assert published_beside(replace(DENSE, model="huggyllama/llama-7b"))[0].dense == 0.7361
    assert published_beside(replace(DENSE, corpus="lambada")) == ()
    assert published_beside(replace(DENSE, model="gpt2")) == ()


def test_points_are_grey_diamonds_within_the_axes_and_told_in_words():
    figure = drawn(tradeoff_chart(RACE, "share right"))
    points = trace(figure, "published")
    assert points["x"] == [0, 10]
    assert points["y"] == [57.89, 56.86]
    assert points["marker"]["symbol"] == ["diamond-open", "diamond"]
    assert figure["layout"]["xaxis"]["range"][1] > 10
    low, high = figure["layout"]["yaxis"]["range"]
    assert low < 56.86 and high > 57.89
    assert tradeoff_words(RACE, "share right").endswith(" Published: dense 57.89 %, at 10 % 56.86 %.")


def test_another_measure_than_the_share_right_has_no_published_points():
    names = {t["name"] for t in drawn(tradeoff_chart(RACE, "flips"))["data"]}
    assert "published" not in names
    assert "Published" not in tradeoff_words(RACE, "flips")


def test_without_rows_there_is_nothing():
    figure = drawn(tradeoff_chart(replace(RACE, published=())))
    assert "published" not in {t["name"] for t in figure["data"]}
    assert published_words(()) == ""
