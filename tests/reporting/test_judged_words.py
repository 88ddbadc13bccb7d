"""Several judged models in words, as a leaderboard and as a document."""

import json

from sparsedash.reporting.judged_words import (
    interval_lines,
    models_document,
    models_verdict,
    ranking_caption,
    ranking_rows,
    ranking_sentence,
)
from sparsedash.reporting.leaderboard import answers_leaderboard
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.judged_models import judge_models, rank_models
from tests.stats.test_judged_models import model

TOLERANCE = Tolerance(points=5)


def judged(**wrong):
    models = {name: [model(n)] for name, n in wrong.items()}
    results = judge_models([model(0)], models, TOLERANCE)
    return results, rank_models(results, "dense")


def test_a_tie_is_called_a_tie():
    _, ranking = judged(a=3, b=100)
    assert (
        ranking_sentence(ranking)
        == "dense and a tie for first on 400 questions that all answered."
    )
    assert [row[1] for row in ranking_rows(ranking)] == ["rank", "1=", "1=", "3"]
    _, alone = judged(b=100)
    assert (
        ranking_sentence(alone) == "dense is best on 400 questions that all answered."
    )
    _, none = judged(a=1)
    assert ranking_sentence(none).startswith(
        "No difference is shown between dense and a on"
    )
    assert "97.5\N{NO-BREAK SPACE}%, which hold together at 95 %" in ranking_caption(
        ranking
    )


def test_the_plot_has_a_mark_an_interval_and_the_baseline():
    _, ranking = judged(a=3, b=100)
    dense, near, far = interval_lines(ranking)
    assert {len(line) for line in (dense, near, far)} == {41}
    assert far.index("●") < far.index("│")
    assert far.startswith("─")
    assert set(dense) == {" ", "●"}
    assert "─" in near


def test_the_document_has_the_ranking_and_each_model():
    models, ranking = judged(a=3, b=100)
    document = json.loads(json.dumps(models_document(models, ranking, TOLERANCE)))
    assert document["format"] == "sparsedash.judge-models/1"
    assert document["verdict"] == "beyond"
    assert [entry["model"] for entry in document["models"]] == ["a", "b"]
    assert document["models"][0]["tasks"][0]["verdict"] == "within"
    assert document["ranking"]["models"][2] == {
        **document["ranking"]["models"][2],
        **{"model": "b", "rank": 3, "ties": [], "score": 0.75, "change": -0.25},
    }
    assert models_verdict({"a": models["a"]}) == "within"


def test_the_leaderboard_of_runs_shows_answers_too():
    sets = {
        "base": [model(0)],
        "a": [model(3, task="mine")],
        "b": [model(100, task="yours")],
    }
    board = answers_leaderboard(sets, TOLERANCE)
    assert board.sentence == (
        "Of 2 models against base: 1 beyond a limit, 1 within the limits of perplexity and of every "
        "task judged."
    )
    table = board.table(board.rows(only_beyond=False, order=""))
    assert table.head == ["Model", "sums"]
    assert table.rows[0][0] == "base\nbaseline"
    assert table.rows[2][1].startswith("75.0\N{NO-BREAK SPACE}%\n✕ −25.0\n")
