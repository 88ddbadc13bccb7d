"""Two records side by side where one of them stopped early."""

from dataclasses import replace

from sparsedash.reporting.record_pair import Pair, RecordChoice, load_pair
from tests.factories import STOPPED
from tests.ui import specimens
from tests.ui.fake_backend import FakeBackend


def stopped_beside_dense() -> tuple[Pair, FakeBackend]:
    backend = FakeBackend()
    run, (dense, *_, sparse) = specimens.run()
    answered = tuple(outcome for outcome in sparse.outcomes if outcome.index % 3 == 1)
    backend.add_run((run, [dense, replace(sparse, outcomes=answered, stopping=STOPPED)]))
    offers = [RecordChoice(key=record.key, name="x", address="x") for record in (dense, sparse)]
    found = load_pair(backend, *offers)
    assert found is not None
    return found, backend


def test_only_the_passages_that_both_answered_are_shown_whichever_side_they_are_on():
    found, _ = stopped_beside_dense()
    assert len(found.left.outcomes) == len(found.right.outcomes) == 40
    for position in range(40):
        left, right = found.outcomes(position)
        assert left.index == right.index
        assert left.index % 3 == 1


def test_no_passage_is_of_a_kind_because_it_was_not_answered():
    found, backend = stopped_beside_dense()
    kinds = found.kinds(range(len(found.left.outcomes)))
    dense = backend.record(found.left.key)
    assert dense is not None
    right = sum(o.last_word_right for o in dense.outcomes if o.index % 3 == 1)
    assert len(kinds["both-right"]) + len(kinds["broke"]) == right


def test_the_texts_stand_beside_their_own_answers():
    found, backend = stopped_beside_dense()
    whole = backend.passages("passages")
    texts = found.texts(whole)
    assert whole is not None and texts is not None
    assert [o.index for o in found.left.outcomes] == list(texts.indices)
    for position, index in enumerate(texts.indices):
        at = whole.indices.index(index)
        assert texts.targets[position] == whole.targets[at]
    assert found.texts(None) is None
