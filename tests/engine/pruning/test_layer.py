"""Sequences whose items are computed lazily."""

import pytest

from sparsedash.engine.pruning.layer import LazySequence


def test_an_index_error_while_a_part_is_made_is_not_the_end_of_the_parts():
    parts = LazySequence(3, [].__getitem__)
    with pytest.raises(IndexError):
        list(parts)


def test_every_part_is_made_once():
    made = []
    parts = LazySequence(3, lambda index: made.append(index) or 2 * index)
    assert [list(parts), list(parts), parts[-1], parts[1:]] == [[0, 2, 4], [0, 2, 4], 4, [2, 4]]
    assert made == [0, 1, 2]
