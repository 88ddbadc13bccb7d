"""Token sequences of the built-in mix: shares, templates, scarce sources, overlap with tasks."""

from dataclasses import replace
from itertools import islice

import pytest

from sparsedash.catalog import mixed_text
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.mixed_text import SOURCES, Exchange, TextSource
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.texts.mixed_sequences import held_out_sequences, mixed_sequences
from sparsedash.schema.settings import BUILTIN_MODEL, CalibrationSettings
from sparsedash.storage.store import Store
from tests.engine.tiny import load_folder, save_tiny

SETTINGS = CalibrationSettings(n_samples=40, length=64)
N_IN_A_ROW = 8


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    return load_folder(save_tiny(folder / "model", "llama"), Store(folder / "data"))


@pytest.fixture(scope="module")
def builtin(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("builtin"))
    return load_model(locate_model(BUILTIN_MODEL, store), "float32")


def n_tokens_of(loaded, settings):
    return sum(map(len, mixed_sequences(loaded, settings)))


@pytest.mark.parametrize("packed", [False, True])
def test_each_source_has_its_share_of_the_tokens(packed, loaded, monkeypatch):
    settings = replace(SETTINGS, packed=packed)
    n_tokens = n_tokens_of(loaded, settings)
    assert n_tokens == pytest.approx(40 * 64, abs=2 * len(SOURCES))
    for source in SOURCES:
        monkeypatch.setattr(mixed_text, "SOURCES", (replace(source, share=0.25),))
        sequences = mixed_sequences(loaded, settings)
        assert sum(map(len, sequences)) == pytest.approx(0.25 * 40 * 64, abs=2)
        assert max(map(len, sequences)) <= 64


def test_a_larger_budget_reads_the_same_documents_and_more(loaded):
    few = mixed_sequences(loaded, replace(SETTINGS, packed=True))
    more = mixed_sequences(loaded, replace(SETTINGS, packed=True, n_samples=60))
    # The last piece of each source may be cut.
    assert len(set(map(tuple, few)) - set(map(tuple, more))) <= len(SOURCES)
    assert sum(map(len, more)) > sum(map(len, few))


def test_where_a_source_runs_out_all_give_less(loaded, monkeypatch):
    settings = replace(SETTINGS, n_samples=100_000)
    scarce = SOURCES[0]
    plentiful = next(source for source in SOURCES if source.draws)
    both = (replace(scarce, share=0.5), replace(plentiful, share=0.5))
    monkeypatch.setattr(mixed_text, "SOURCES", both)
    n_tokens = n_tokens_of(loaded, settings)
    monkeypatch.setattr(mixed_text, "SOURCES", (replace(scarce, share=1.0),))
    assert n_tokens / 2 == pytest.approx(n_tokens_of(loaded, settings), abs=64)


def test_instructions_stand_in_the_model_s_own_chat_template(loaded, monkeypatch):
    only = TextSource(
        name="instructions",
        title="",
        share=1.0,
        file="instructions.jsonl",
    )
    monkeypatch.setattr(mixed_text, "SOURCES", (only,))
    plain = mixed_sequences(loaded, SETTINGS)
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{{ strftime_now('%Y') }}"
    monkeypatch.setattr(loaded.tokenizer, "chat_template", template)
    assert mixed_sequences(loaded, SETTINGS) != plain
    failing = "{{ raise_exception('no system role') }}"
    monkeypatch.setattr(loaded.tokenizer, "chat_template", failing)
    assert mixed_sequences(loaded, SETTINGS) == plain


def test_held_out_text_is_as_long_as_asked_for_and_never_calibrated_on(loaded):
    for source in SOURCES:
        held_out = held_out_sequences(loaded, source, 128)
        assert [len(ids) for ids in held_out] == [32] * 4


def test_no_eight_tokens_in_a_row_are_of_the_mix_and_of_a_built_in_task(builtin):
    in_tasks = set()
    for task in BUILTIN_TASKS.values():
        for question in task.questions():
            in_tasks |= _rows(builtin, question.context + question.answer)
    for source in SOURCES:
        for document in (*islice(source.documents(0), 120), *source.held_out()):
            text = document.plain if isinstance(document, Exchange) else document
            assert not _rows(builtin, text) & in_tasks, source.name


def _rows(loaded, text):
    ids = loaded.tokens(text)
    return {
        tuple(ids[start : start + N_IN_A_ROW])
        for start in range(len(ids) - N_IN_A_ROW + 1)
    }
