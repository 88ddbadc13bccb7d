"""Slices of a task, and intervals by clusters of its questions."""

from dataclasses import replace
from itertools import combinations
from math import inf

import pytest

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats import answer_slices
from sparsedash.stats.answer_slices import clustered, slice_tasks
from sparsedash.stats.task_pairs import pair_answers
from sparsedash.stats.task_verdicts import judge_tasks
from tests.question_sets import answered, question, rolled

TOLERANCE = Tolerance(points=5)


def pair(rights, fields=None, clusters=None, context=""):
    """All right before; right afterwards as given. fields, clusters: of each question."""
    dense = []
    sparse = []
    for i, right in enumerate(rights):
        about = {"fields": fields[i] if fields else {}, "context": context}
        about["cluster"] = clusters[i] if clusters else ""
        dense.append(question(i, True, **about))
        sparse.append(question(i, right, **about))
    return pair_answers(answered(*dense), answered(*sparse))


def test_a_slice_that_lost_more_than_the_rest_is_found():
    subjects = [
        {"subject": "law" if i < 100 else "art", "id": f"{i}"} for i in range(500)
    ]
    law, art = slice_tasks([pair([i >= 30 for i in range(500)], subjects)], TOLERANCE)
    assert (law.name, art.name) == ("subject: law", "subject: art")
    assert law.differs and art.differs
    assert law.p_value == art.p_value < 1e-12
    assert (law.rest_loss, art.rest_loss) == (0.0, 0.3)
    assert (law.result.verdict, art.result.verdict) == ("beyond", "within")
    # Levels allow for both slices.
    assert law.result.loss.level == pytest.approx(0.95)


def test_a_loss_that_is_spread_evenly_differs_nowhere():
    subjects = [{"subject": f"{i % 5}", "level": f"{i % 3}"} for i in range(600)]
    slices = slice_tasks(
        [pair([i % 10 > 0 for i in range(600)], subjects)], TOLERANCE, ["level"]
    )
    assert [part.name for part in slices] == ["level: 0", "level: 1", "level: 2"]
    assert not any(part.differs for part in slices)
    with pytest.raises(CorpusError, match="No question has a field topic"):
        slice_tasks([pair([True] * 40, subjects)], TOLERANCE, ["topic"])


def test_slices_by_length_are_quarters_and_small_ones_are_left_out():
    pairs = [pair([True] * 50, context="x" * size) for size in (10, 20, 30, 40)]
    questions = []
    for k, part in enumerate(pairs):
        questions += [
            (replace(one, doc_hash=f"{k} {i}"), two)
            for i, (one, two) in enumerate(part.questions)
        ]
    together = replace(pairs[0], questions=tuple(questions))
    names = [part.name for part in slice_tasks([together], TOLERANCE)]
    assert names == [f"length: up to {size} characters" for size in (10, 20, 30, 40)]
    fields = [{"subject": "law" if i < 29 else "art"} for i in range(100)]
    (art,) = slice_tasks([pair([True] * 100, fields)], TOLERANCE)
    assert (art.name, art.p_value) == ("subject: art", None)


def test_documents_have_no_slices():
    documents = [rolled(i, -20.0 - i) for i in range(40)]
    assert (
        slice_tasks(
            [pair_answers(answered(*documents), answered(*documents))], TOLERANCE
        )
        == []
    )


def test_the_exact_p_counts_all_slices_of_the_size():
    losses = [1, 1, 1, -1, 0, 0, 0, 0, 0]
    for lost in range(-1, 4):
        expected = 4 * sum(losses) / 9
        far = abs(lost - expected) - 1e-9
        draws = [sum(chosen) for chosen in combinations(losses, 4)]
        share = sum(abs(draw - expected) >= far for draw in draws) / len(draws)
        assert answer_slices._exact_p(3, 1, 9, 4, lost) == pytest.approx(share)


def test_with_many_flips_the_normal_approximation_agrees_with_the_exact_test(
    monkeypatch,
):
    subjects = [{"subject": "law" if i % 4 == 0 else "art"} for i in range(1200)]
    rights = [(i * 7919) % 13 > (1 if i % 4 else 2) for i in range(1200)]
    (exact, _) = slice_tasks([pair(rights, subjects)], TOLERANCE)
    monkeypatch.setattr(answer_slices, "_MAX_TERMS", 0)
    (normal, _) = slice_tasks([pair(rights, subjects)], TOLERANCE)
    assert normal.p_value == pytest.approx(exact.p_value, abs=0.02)


def verdict_of(rights, clusters):
    (result,) = judge_tasks([pair(rights, clusters=clusters)], TOLERANCE)
    return result


def test_an_interval_by_clusters_is_wider_where_questions_break_together():
    rights = [i >= 60 for i in range(600)]
    apart = verdict_of(rights, [""] * 600)
    spread = verdict_of(rights, [f"{i % 60}" for i in range(600)])
    together = verdict_of(rights, [f"{i // 10}" for i in range(600)])
    assert (apart.n_clusters, together.n_clusters) == (None, 60)
    assert apart.loss.high <= spread.loss.high < apart.loss.high + 0.005
    assert together.loss.high > apart.loss.high + 0.02
    assert together.p_value > 100 * apart.p_value
    assert together.loss.needed is None or together.loss.needed > 600


def test_with_fewer_than_30_clusters_nothing_is_decided():
    rights = [i >= 300 for i in range(600)]
    few = verdict_of(rights, [f"{i // 21}" for i in range(600)])
    assert (few.n_clusters, few.verdict, few.p_value) == (29, "undecided", 1.0)
    assert (few.loss.low, few.loss.high) == (-inf, inf)
    assert verdict_of(rights, [f"{i // 20}" for i in range(600)]).verdict == "beyond"


def test_clusters_without_a_flip_still_leave_doubt():
    kept = verdict_of([True] * 300, [f"{i // 10}" for i in range(300)])
    assert kept.verdict == "within"
    assert kept.loss.high > 0.003


def test_a_field_can_be_the_cluster_and_slices_heed_it():
    fields = [{"story": f"{i // 10}", "subject": "ab"[i // 10 % 2]} for i in range(800)]
    plain = pair([i >= 60 for i in range(800)], fields)
    (dense,) = clustered([plain.dense], "story")
    (sparse,) = clustered([plain.other], "story")
    assert dense.questions[15].cluster == "1"
    by_story = pair_answers(dense, sparse)
    (one, _) = slice_tasks([plain], TOLERANCE, ["subject"])
    (two, _) = slice_tasks([by_story], TOLERANCE, ["subject"])
    assert two.p_value >= one.p_value
    with pytest.raises(CorpusError, match=r"no field|No question has a field topic"):
        clustered([dense], "topic")
