"""The built-in mix: its shares, held-out documents, identity, and what it has in common with the
built-in tasks.
"""

from dataclasses import replace
from itertools import islice

import pytest

from sparsedash.catalog import mixed_text
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.mixed_text import SOURCES, Exchange, mixed_identity


def test_the_shares_are_of_all_tokens():
    assert sum(source.share for source in SOURCES) == pytest.approx(1)
    assert len({source.name for source in SOURCES}) == len(SOURCES)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_documents_are_drawn_by_the_seed_and_never_held_out_ones(source):
    first, again, another_seed = (
        list(islice(source.documents(seed), 40)) for seed in (0, 0, 1)
    )
    assert first == again != another_seed
    held_out = source.held_out()
    assert len(held_out) == len(set(held_out)) == 4
    assert not set(held_out) & {*first, *another_seed}


def test_neighbouring_seeds_share_no_drawn_document():
    for source in SOURCES:
        if source.draws:
            assert not set(islice(source.documents(0), 40)) & set(
                islice(source.documents(1), 40)
            )


def test_no_line_of_the_mix_is_a_line_of_a_built_in_task():
    questions = set()
    for task in BUILTIN_TASKS.values():
        for question in task.questions():
            questions.update(map(str.strip, _lines(question)))
    read = set()
    for source in SOURCES:
        for document in (*islice(source.documents(0), 200), *source.held_out()):
            text = document.plain if isinstance(document, Exchange) else document
            read |= {line.strip() for line in text.splitlines()}
    assert not (questions & read) - {""}


def _lines(question):
    return f"{question.context}{question.answer}".splitlines()


def test_another_share_is_another_text(monkeypatch):
    before = mixed_identity()
    first, second, *others = SOURCES
    swapped = (
        _with_share(first, second.share),
        _with_share(second, first.share),
        *others,
    )
    monkeypatch.setattr(mixed_text, "SOURCES", swapped)
    mixed_identity.cache_clear()
    assert mixed_identity() != before
    monkeypatch.undo()
    mixed_identity.cache_clear()
    assert mixed_identity() == before


def _with_share(source, share):
    return replace(source, share=share)
