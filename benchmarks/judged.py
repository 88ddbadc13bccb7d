"""How often `judge` is wrong where the true loss is known: drawn pairs of answer files, plain or with
questions that share a passage.

    python -m benchmarks.judged --draws 4000

The true loss lies inside, at or outside the limit. Counted is how often a verdict is `within` though
the loss is not below the limit, or `beyond` though it is not above it; and how often each falls. Of
clusters, each passage has a chance of its own that answers break, from a beta distribution.
"""

import argparse
from collections import Counter

import numpy as np

from sparsedash.schema.question_records import AnsweredQuestion, QuestionSet
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.task_pairs import TaskPair
from sparsedash.stats.task_verdicts import judge_tasks

LIMIT = 0.02
LOSSES = {"inside": 0.0, "at": LIMIT, "outside": 0.05}
FIXED = 0.03
"""Chance that a wrong answer was fixed; what breaks is that and the loss."""
DESIGNS = {"400 questions": (400, 1), "2,000 questions": (2_000, 1)} | {
    "40 passages of 10": (40, 10),
    "200 passages of 5": (200, 5),
}
"""Clusters and questions in each."""
SPREAD = 8.0
"""Of the beta distribution: the less, the more the questions of one passage break together."""
TOLERANCE = Tolerance(points=100 * LIMIT)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=4_000)
    draws = parser.parse_args().draws
    print(
        f"{draws:,} draws each, limit {100 * LIMIT:g} points, wanted: at most 5.5 % wrong"
    )
    print(
        f"{'questions':<20}{'true loss':>10}{'within':>9}{'beyond':>9}{'wrong within':>14}{'wrong beyond':>14}"
    )
    for name, (n_clusters, size) in DESIGNS.items():
        for place, loss in LOSSES.items():
            verdicts = draw_verdicts(draws, n_clusters, size, loss)
            within = 100 * verdicts["within"] / draws
            beyond = 100 * verdicts["beyond"] / draws
            wrong_within = f"{within:.1f}" if loss >= LIMIT else ""
            wrong_beyond = f"{beyond:.1f}" if loss <= LIMIT else ""
            print(
                f"{name:<20}{place:>10}{within:>9.1f}{beyond:>9.1f}{wrong_within:>14}{wrong_beyond:>14}"
            )


def draw_verdicts(draws, n_clusters, size, loss):
    """How often each verdict falls."""
    rng = np.random.default_rng(65)
    n = n_clusters * size
    questions = prebuilt_questions(n, size)
    verdicts = Counter()
    broke_share = FIXED + loss
    for _ in range(draws):
        shares = np.full(n_clusters, broke_share)
        if size > 1:
            shares = rng.beta(
                broke_share * SPREAD, (1 - broke_share) * SPREAD, n_clusters
            )
        rolls = rng.random(n)
        broke = rolls < np.repeat(shares, size)
        fixed = rolls > 1 - FIXED
        pair = drawn_pair(questions, broke, fixed)
        (result,) = judge_tasks([pair], TOLERANCE)
        verdicts[result.verdict] += 1
    return verdicts


def prebuilt_questions(n, size):
    """Each question answered wrong and right."""
    questions = []
    for i in range(n):
        about = {"doc_hash": f"{i}", "prompt_hash": "p", "target_hash": "t"}
        cluster = f"passage {i // size}" if size > 1 else ""
        both = [
            AnsweredQuestion(
                **about, context="", target="", right=right, cluster=cluster
            )
            for right in (False, True)
        ]
        questions.append(both)
    return questions


def drawn_pair(questions, broke, fixed):
    """The pair in which these answers broke or were fixed; all others stay right."""
    pairs = []
    for (wrong, right), is_broke, is_fixed in zip(
        questions, broke.tolist(), fixed.tolist(), strict=True
    ):
        dense = wrong if is_fixed else right
        pairs.append((dense, wrong if is_broke else right))
    dense_set = QuestionSet(
        model="", task="drawn", measure="acc", questions=(pairs[0][0],)
    )
    return TaskPair(
        dense=dense_set,
        other=dense_set,
        questions=tuple(pairs),
        n_repeated=0,
        n_alone=0,
    )


if __name__ == "__main__":
    main()
