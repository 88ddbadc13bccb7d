"""Published points on the accuracy chart: where the model, the passages and the format are the same, and nowhere else."""

from dataclasses import replace

from sparsedash.charts import accuracy_chart, add_published_, published_beside, published_words
from sparsedash.published import LAST_WORD
from tests.examples import PRUNED, RECORD, outcome

DENSE = replace(
    RECORD,
    model="facebook/opt-1.3b",
    corpus="lambada_openai",
    pruned=None,
    outcomes=tuple(outcome(i, right=i % 2 == 0) for i in range(40)),
)
SPARSE = replace(DENSE, pruned=replace(PRUNED, mlp_sparsity=0.05))


def test_a_row_stands_beside_the_same_model_passages_and_format():
    (row,) = published_beside(DENSE)
    assert (row.model, row.dtype) == ("facebook/opt-1.3b", "float32")
    (half,) = published_beside(replace(DENSE, dtype="bfloat16"))
    assert half.dense == 0.5629
    assert published_beside(replace(DENSE, model="huggyllama/llama-7b"))[0].dense == 0.7361
    assert published_beside(replace(DENSE, corpus="lambada")) == ()
    assert published_beside(replace(DENSE, model="gpt2")) == ()


def test_points_are_grey_diamonds_within_the_axes_and_told_in_words():
    figure = accuracy_chart(DENSE, {"sparse": [SPARSE]})
    rows = published_beside(DENSE)
    add_published_(figure, rows)
    points = figure.data[-1]
    assert points.name == "published"
    assert list(points.x) == [0, 10]
    assert list(points.y) == [57.89, 56.86]
    assert list(points.marker.symbol) == ["diamond-open", "diamond"]
    assert figure.layout.xaxis.range[1] > 10
    assert figure.layout.yaxis.range[0] < 56.86 and figure.layout.yaxis.range[1] > 57.89
    assert published_words(rows) == " Published: dense 57.89 %, at 10 % 56.86 %."


def test_without_rows_the_chart_stays_as_it_is():
    figure = accuracy_chart(DENSE, {"sparse": [SPARSE]})
    before = figure.to_json()
    add_published_(figure, ())
    assert figure.to_json() == before
    assert published_words(()) == ""
    assert len(LAST_WORD) == 12
