"""What is said before and after runs are deleted."""

from sparsedash.reporting.run_list import run_deletion_question, run_deletion_report
from sparsedash.service.deletion import Removal
from tests.factories import RUN

TITLES = {"r": "Mine", "s": "Another"}


def removal(**changes):
    usual = {"runs": (RUN,), "refused": {}, "records": frozenset("ab"), "passages": frozenset(), "n_shared": 0}
    return Removal(**{**usual, **changes})


def test_one_run_is_named_and_several_are_counted():
    assert run_deletion_question(removal(), TITLES) == [
        "Delete “Mine”, with the answers of 2 models? It cannot be undone."
    ]
    assert run_deletion_question(removal(runs=(RUN, RUN), records=frozenset("a")), TITLES) == [
        "Delete 2 runs, with the answers of 1 model? It cannot be undone."
    ]


def test_what_stays_is_said_with_the_reason():
    assert run_deletion_question(removal(n_shared=1, refused={"s": "it is under way"}), TITLES)[1:] == [
        "The answers of 1 model stay: other runs use them.",
        "“Another” stays: it is under way.",
    ]


def test_what_was_deleted_is_told_in_one_line():
    assert run_deletion_report(removal(), TITLES) == "Mine was deleted, with the answers of 2 models."
    assert run_deletion_report(removal(runs=(RUN, RUN), records=frozenset()), TITLES) == "2 runs were deleted."
    refused = removal(runs=(), records=frozenset(), refused={"s": "it is under way"})
    assert run_deletion_report(refused, TITLES) == "Nothing was deleted. “Another” stays: it is under way."
    assert run_deletion_question(refused, TITLES) == ["“Another” stays: it is under way."]
