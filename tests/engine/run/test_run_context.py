"""Texts of a run: shares of the mix in the calibration, and tokenizers that append or prepend a
token.
"""

from dataclasses import replace

import pytest

from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.comparison.text_comparison import (
    continue_prompt,
    measure_divergence,
)
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import calibration_texts, pipeline, run_context
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.texts import corpora
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.settings import (
    BUILTIN_MIXED,
    BUILTIN_TEXT,
    SELF,
    CalibrationSettings,
)
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import mix_share
from sparsedash.service import preflight
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.run.small_runs import (
    CHANNELS,
    MODEL_CACHE,
    RANDOM,
    count_calls,
    ran,
    records,
)
from tests.engine.tiny import save_tiny

HALF = replace(CHANNELS, mix=0.5)


@pytest.fixture
def mixed(settings):
    calibration = replace(
        settings.calibration,
        n_samples=18,
        packed=True,
    )
    return replace(
        settings,
        methods=(CHANNELS, HALF),
        sparsities_permille=(250,),
        calibration=calibration,
    )


def context_of(settings, store):
    return RunContext(settings, store, ignore_steps, MODEL_CACHE)


def test_as_many_tokens_of_which_a_share_is_the_mix(mixed, store):
    run = context_of(mixed, store)
    length = mixed.calibration.length
    calibration_ids, half, mix = map(run.calibration_texts.sequences, (0.0, 0.5, 1.0))
    n_own = sum(map(len, calibration_ids))
    n_half = sum(map(len, half))
    assert abs(n_own - n_half) <= length
    assert sum(len(ids) for ids in half if ids not in calibration_ids) == pytest.approx(
        n_half / 2, abs=2 * length
    )
    assert half == context_of(mixed, store).calibration_texts.sequences(0.5)
    # Both are among the first, and among those kept out of the fit.
    assert {ids in calibration_ids for ids in half[:12]} == {True, False}
    assert all(ids not in calibration_ids for ids in mix)


def test_as_many_tokens_where_samples_are_longer_than_the_model_reads(
    mixed, store, monkeypatch
):
    run = context_of(mixed, store)
    length = mixed.calibration.length
    monkeypatch.setattr(type(run.loaded), "max_length", length // 2)
    n_own, n_half = (
        sum(map(len, run.calibration_texts.sequences(share))) for share in (0.0, 0.5)
    )
    assert abs(n_own - n_half) <= length


def test_a_text_of_single_tokens_is_refused_in_words(mixed, store, monkeypatch):
    monkeypatch.setattr(
        run_context,
        "read_texts",
        lambda *_: corpora.Texts(texts=("the",), identity="o" * 64),
    )
    with pytest.raises(CorpusError, match="no sample of two tokens or more"):
        context_of(mixed, store).calibration_texts.sequences(0.0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_text_to_heal_goes_on_where_that_of_the_calibration_ends(
    share, mixed, store, monkeypatch
):
    monkeypatch.setattr("sparsedash.catalog.resources.HEAL_BATCH_TOKENS", 120)
    method = replace(CHANNELS, mix=share)
    length = mixed.calibration.length
    run = context_of(mixed, store)
    calibration_ids = run.calibration_texts.sequences(share)
    (few, more) = [
        run.calibration_texts.to_heal(SparseSpec(method, 1, n)) for n in (5, 8)
    ]
    assert (
        run.calibration_texts.to_heal(SparseSpec(method, 1, 1)) == []
        and more[: len(few)] == few
    )
    assert sum(map(len, [*calibration_ids, *few])) == pytest.approx(600, abs=length)
    assert not {tuple(ids) for ids in calibration_ids} & {tuple(ids) for ids in more}
    written = replace(mixed, calibration=replace(mixed.calibration, corpus=SELF))
    assert (
        context_of(written, store).calibration_texts.to_heal(SparseSpec(method, 1, 8))
        == []
    )


def test_a_run_gives_each_method_the_calibration_that_it_asks_for(
    mixed, store, monkeypatch
):
    cuts = count_calls(monkeypatch, calibration_texts, "calibration_sequences")
    both = ran(mixed, store)
    # That of the usual method, and half of the other's; passages are looked for in single
    # documents.
    assert [calibration.packed for _, _, calibration in cuts].count(True) == 2
    alone = ran(replace(mixed, methods=(HALF,)), store)
    assert alone.sparse == both.sparse[1:] and both.sparse[0] != both.sparse[1]
    _, usual, half = records(store, both)
    assert usual.pruned.layer_errors != half.pruned.layer_errors
    parts = preflight.stored_parts(mixed, store)
    assert (parts.calibration, parts.dense, parts.sparse) == (True, True, 2)


@pytest.mark.parametrize(
    ("method", "corpus", "share"),
    [
        (HALF, "wikitext-2", 0.5),
        (HALF, SELF, 0.5),
        (HALF, BUILTIN_TEXT, 0.5),
        (HALF, BUILTIN_MIXED, 0),
        (replace(RANDOM, mix=0.5), "wikitext-2", 0),
    ],
)
def test_the_mix_is_added_to_any_text_but_itself(method, corpus, share):
    assert (
        mix_share(SparseSpec(method, 100), CalibrationSettings(corpus=corpus)) == share
    )


PROMPT = "the lamp and the boat and"


def token_results(settings, folder, template):
    """All that depends on tokens: answers, layer errors, what is written after a prompt, and a
    divergence.
    """
    store = Store(folder / "data")
    model_cache = ModelCache()
    model = str(save_tiny(folder / "model", template=template))
    by_model = CalibrationSettings(
        corpus=SELF,
        n_samples=20,
        length=32,
    )
    variant = replace(
        settings,
        model=model,
        calibration=by_model,
        sparsities_permille=(500,),
    )
    run = pipeline.run(
        variant,
        store,
        model_cache=model_cache,
    )
    dense, sparse = records(store, run)
    pair = {"left": run.dense, "right": run.sparse[0]}
    cache = ModelPairCache(model_cache)
    written = continue_prompt(
        ContinuationSettings(
            **pair,
            prompt=PROMPT,
            n_tokens=6,
        ),
        store,
        cache,
    )
    apart = measure_divergence(DivergenceSettings(**pair, text=PROMPT), store, cache)
    store.close()
    layers = sparse.pruned.layer_errors, sparse.pruned.passage_errors
    return (
        dense.outcomes,
        sparse.outcomes,
        layers,
        written.left,
        written.right,
        apart.opening,
        apart.places,
    )


def test_an_appended_token_changes_nothing_and_a_prepended_one_stays(
    settings, tmp_path
):
    bos, both = (
        token_results(settings, tmp_path / name, f"<|end|> $A{after}")
        for name, after in (("a", ""), ("b", " <|end|>"))
    )
    assert both == bos


@pytest.mark.parametrize(
    ("lasts", "counted"),
    [
        (
            ["home"],
            "1 of 3 passages exceeds the model's context: 45 words were dropped from the front.",
        ),
        (
            ["home", "the"],
            "2 of 4 passages exceed the model's context: 90 words were dropped from the front.",
        ),
    ],
)
def test_passages_that_are_too_long_are_counted_in_a_warning(
    lasts, counted, settings, store, tmp_path
):
    long = [" ".join([*["boat"] * 300, last]) for last in lasts]
    file = write_jsonl(tmp_path / "long.jsonl", [*passages(2), *long])
    model = str(save_tiny(tmp_path / "model", template="<|end|> $A"))
    run = ran(
        replace(
            settings,
            model=model,
            evaluation=replace(settings.evaluation, corpus=f"file:{file}"),
        ),
        store,
    )
    (warning,) = (line for line in run.warnings if "context" in line)
    assert warning == counted
