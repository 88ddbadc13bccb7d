"""A method that takes a share of its calibration text from the plain stories that ship with the program."""

from dataclasses import replace

import pytest

from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline, run_context
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.texts import corpora
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import BUILTIN_TEXT, SELF, CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.schema.store_keys import plain_share
from sparsedash.service import preflight

USUAL = MethodSettings(width_multiple=8)
HALF = replace(USUAL, plain_text=0.5)
PLAIN = corpora.Texts(
    texts=tuple(f"the plain story of the lamp number {i} and of the sea" for i in range(60)), identity="p" * 64
)


@pytest.fixture
def settings(model_folder, passage_file, monkeypatch):
    read = run_context.read_texts
    monkeypatch.setattr(
        run_context, "read_texts", lambda name, folder: PLAIN if name == BUILTIN_TEXT else read(name, folder)
    )
    return RunSettings(
        model=str(model_folder),
        methods=(USUAL, HALF),
        sparsities_permille=(250,),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}[20:]", n_samples=18, length=32, packed=True),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=6),
    )


def sequences(settings, store, share):
    return RunContext(settings, store, ignore_steps, ModelShelf()).sequences(share)


def test_so_many_of_the_tokens_are_plain_and_there_are_as_many_in_all(settings, store):
    own, half = sequences(settings, store, 0.0), sequences(settings, store, 0.5)
    n_own, n_half = sum(map(len, own)), sum(map(len, half))
    assert abs(n_own - n_half) <= settings.calibration.length
    plain = [ids for ids in half if ids not in own]
    assert sum(map(len, plain)) == pytest.approx(n_half / 2, abs=2 * settings.calibration.length)
    assert half == sequences(settings, store, 0.5)


def test_the_two_are_mixed_so_that_both_are_read_first_and_kept_out_of_the_fit(settings, store):
    own, half = sequences(settings, store, 0.0), sequences(settings, store, 0.5)
    first = [ids in own for ids in half[:12]]
    assert any(first) and not all(first)


def test_all_of_it_may_be_plain(settings, store):
    assert all(ids not in sequences(settings, store, 0.0) for ids in sequences(settings, store, 1.0))


def test_each_calibration_text_is_cut_into_tokens_once(settings, store, monkeypatch):
    cut, asked = run_context.calibration_sequences, []
    monkeypatch.setattr(run_context, "calibration_sequences", lambda *given: asked.append(given[2]) or cut(*given))
    pipeline.run(settings, store)
    # That of the usual method, and the two halves of the other's.
    assert len(asked) == 3


def test_a_run_gives_each_method_the_calibration_that_it_asks_for(settings, store):
    both = pipeline.run(settings, store)
    alone = pipeline.run(replace(settings, methods=(HALF,)), store)
    assert alone.sparse == both.sparse[1:] and both.sparse[0] != both.sparse[1]
    usual, half = (store.get(Record, key).pruned for key in both.sparse)
    assert usual.layer_errors != half.layer_errors
    found = preflight.stored_parts(settings, store)
    assert (found.calibration, found.dense, found.sparse) == (True, True, 2)


def test_text_that_is_plain_anyway_is_taken_as_it_is():
    assert plain_share(HALF, CalibrationSettings(corpus="wikitext-2")) == 0.5
    # What a model writes itself need not be plain: Gemma 3 270M does not go on with a story.
    assert plain_share(HALF, CalibrationSettings(corpus=SELF)) == 0.5
    assert plain_share(HALF, CalibrationSettings(corpus=BUILTIN_TEXT)) == 0
    blind = MethodSettings(saliency="random", compensation="none", plain_text=0.5)
    assert plain_share(blind, CalibrationSettings(corpus="wikitext-2")) == 0
