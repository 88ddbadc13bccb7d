"""Deletions in words."""

import pytest

from sparsedash.reporting.storage_words import (
    cache_question,
    deletion_question,
    deletion_summary,
)
from sparsedash.service.deletion import RunDeletion
from sparsedash.service.holdings import CacheContents, CacheItem
from tests.factories import RUN

NOTHING = {
    "runs": (),
    "refused": {},
    "entries": frozenset(),
}
TIMING = CacheItem("timings", "records", "timing/a", 3_000_000)


@pytest.mark.parametrize(
    ("plan", "question", "summary"),
    [
        (
            {
                "runs": (RUN,),
                "entries": frozenset(["record/a", "timing/b"]),
                "n_bytes": 20_000_000,
            },
            "Delete “Mine” with the answers of 1 model, 20\u00a0MB? This cannot be undone.",
            "Deleted: “Mine” with the answers of 1 model, 20\u00a0MB.",
        ),
        (
            {"runs": (RUN, RUN), "refused": {RUN.key: "it is pinned"}},
            "Delete 2 runs? This cannot be undone. “Mine” stays: it is pinned.",
            "Deleted: 2 runs. “Mine” stays: it is pinned.",
        ),
        (
            {"refused": {"s": "it is under way"}},
            "Nothing here can be deleted now. 1 run stays: it is under way.",
            "Nothing was deleted. 1 run stays: it is under way.",
        ),
    ],
    ids=["one-run", "runs", "nothing"],
)
def test_a_deletion_says_before_and_after_what_goes_and_what_stays(
    plan, question, summary
):
    deletion = RunDeletion(**{**NOTHING, "n_bytes": 0, **plan})
    assert " ".join(deletion_question(deletion, {RUN.key: "Mine"})).startswith(question)
    assert deletion_summary(deletion, {RUN.key: "Mine"}) == summary


@pytest.mark.parametrize(
    ("items", "question"),
    [
        ((TIMING,), "Delete 3\u00a0MB? Lost until measured again: Measured speed."),
        ((), "Nothing here can be deleted now."),
    ],
)
def test_emptying_the_cache_says_what_is_lost_and_what_a_job_needs(items, question):
    spared = CacheItem("calibration", "artefacts", "a", 2_000_000)
    stays = "2\u00a0MB stay: a waiting or running job may need them."
    sentences = cache_question(CacheContents(items=items, spared=(spared,)))
    assert " ".join(sentences) == f"{question} {stays}"
