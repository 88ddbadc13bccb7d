"""Sequences whose items are computed lazily."""

import pytest

from sparsedash.engine.pruning.layer import LazySequence


def test_an_index_error_while_an_item_is_made_is_not_the_end_of_the_items():
    with pytest.raises(IndexError):
        list(LazySequence(3, [].__getitem__))


def test_every_item_is_made_once():
    made = []
    items = LazySequence(3, lambda index: made.append(index) or 2 * index)
    assert [list(items), list(items), items[2]] == [[0, 2, 4], [0, 2, 4], 4]
    assert made == [0, 1, 2]
