"""What is said before and after runs are deleted."""

from sparsedash.reporting.runs.deleting import asked, told
from sparsedash.service.run_removal import Removal
from tests.factories import RUN

TITLES = {"r": "Mine", "s": "Another"}


def removal(**changes):
    usual = {"runs": (RUN,), "refused": {}, "records": frozenset("ab"), "passages": frozenset(), "n_shared": 0}
    return Removal(**{**usual, **changes})


def test_one_run_is_named_and_several_are_counted():
    assert asked(removal(), TITLES) == ["Delete “Mine”, with the answers of 2 models? It cannot be undone."]
    assert asked(removal(runs=(RUN, RUN), records=frozenset("a")), TITLES) == [
        "Delete 2 runs, with the answers of 1 model? It cannot be undone."
    ]


def test_what_stays_is_said_with_the_reason():
    assert asked(removal(n_shared=1, refused={"s": "it is under way"}), TITLES)[1:] == [
        "The answers of 1 model stay: other runs use them.",
        "“Another” stays: it is under way.",
    ]
    unknown = asked(removal(n_shared=3, records=frozenset(), unknown=True), TITLES)
    assert unknown[1].startswith("All answers stay: other runs here were written by another version")


def test_what_was_deleted_is_told_in_one_line():
    assert told(removal(), TITLES) == "Mine was deleted, with the answers of 2 models."
    assert told(removal(runs=(RUN, RUN), records=frozenset()), TITLES) == "2 runs were deleted."
    refused = removal(runs=(), records=frozenset(), refused={"s": "it is under way"})
    assert told(refused, TITLES) == "Nothing was deleted. “Another” stays: it is under way."
    assert asked(refused, TITLES) == ["“Another” stays: it is under way."]
