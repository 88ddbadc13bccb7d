"""Deletions in words."""

import pytest

from sparsedash.reporting.storage_words import deletion_question, deletion_summary
from sparsedash.service.deletion import Cleanup, Item, Staying
from tests.factories import RUN

NOTHING = {
    "runs": (),
    "refused": {},
    "entries": frozenset(),
    "n_shared": 0,
    "n_named": 0,
    "items": (),
    "stays": (),
}
STAYING = (
    "1 run stays: it is under way. 3 entries of “Calibration statistics” stay: a job needs them."
)
LOGS = tuple(Item("logs", name, 10_000_000) for name in "ab")


@pytest.mark.parametrize(
    ("plan", "question", "summary"),
    [
        (
            {
                "runs": (RUN,),
                "entries": frozenset(["record/a", "timing/b"]),
                "items": LOGS,
                "n_bytes": 20_000_000,
            },
            "Delete “Mine” with the answers of 1 model and 2 logs, 20\u00a0MB? This cannot be undone.",
            "Deleted: “Mine” with the answers of 1 model and 2 logs, 20\u00a0MB.",
        ),
        (
            {"runs": (RUN, RUN), "n_shared": 1, "n_named": 2},
            "Delete 2 runs? This cannot be undone. 2 of these runs have names.",
            "Deleted: 2 runs. The answers of 1 model stay: other runs use them.",
        ),
        (
            {
                "refused": {"s": "it is under way"},
                "stays": (Staying("statistics", 3, "a job needs {them}"),),
            },
            f"Nothing here can be deleted now. {STAYING}",
            f"Nothing was deleted. {STAYING}",
        ),
    ],
    ids=["one-run", "runs", "nothing"],
)
def test_a_deletion_says_before_and_after_what_goes_and_what_stays(plan, question, summary):
    cleanup = Cleanup(**{**NOTHING, "n_bytes": 0, **plan})
    assert " ".join(deletion_question(cleanup, {RUN.key: "Mine"})).startswith(question)
    assert deletion_summary(cleanup, {RUN.key: "Mine"}) == summary
