"""Runs of a tiny model: what is computed, what is read from the store, and what is refused."""

import shutil
from dataclasses import replace

import pytest

from sparsedash.catalog.mixed_text import SOURCES
from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration import calibration
from sparsedash.engine.calibration.calibration import StoredStatistics
from sparsedash.engine.evaluation.kind_losses import KindText
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.pruning import saliency
from sparsedash.engine.run import pipeline, run_context
from sparsedash.engine.run.calibration_texts import CalibrationTexts
from sparsedash.engine.run.model_making import RunModel
from sparsedash.schema.errors import (
    CalibrationError,
    Cancelled,
    ModelError,
    SettingsError,
    StoreError,
)
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings
from sparsedash.service import preflight
from sparsedash.storage.file_hashes import file_hashes_of
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.store import Store
from tests.engine.conftest import write_jsonl
from tests.engine.run.small_runs import (
    CHANNELS,
    FISHER,
    RANDOM,
    count_calls,
    fresh_records,
    must_not_run,
    ran,
    records,
    stages_of,
)
from tests.engine.tiny import save_tiny
from tests.storage.every_kind import harm_entry


@pytest.fixture
def no_calibration(monkeypatch):
    """Gives a function after which nothing may be calibrated."""
    return lambda: monkeypatch.setattr(StoredStatistics, "reach", must_not_run)


@pytest.fixture(scope="module")
def known(settings, tmp_path_factory):
    """A store with a run of these settings, to which others are added."""
    store = Store(tmp_path_factory.mktemp("known"))
    store.first, store.stages = stages_of(settings, store)
    yield store
    store.close()


def pruned(store, run):
    return [store.get(Record, key).pruned for key in run.sparse]


def one(settings, permille=125, **changes):
    return replace(
        settings,
        sparsities_permille=(permille,),
        **changes,
    )


# What a run leaves, and what is read from the store.


def test_a_run_keeps_the_dense_record_and_one_for_every_sparsity(settings, known):
    run = known.first
    dense, *sparse = records(known, run)
    assert run.finished and dense.pruned is None
    assert known.get(Run, settings.key(file_hashes_of(settings, known))) == run
    assert [record.pruned.widths for record in sparse] == [(72, 72, 72), (48, 48, 48)]
    assert [record.pruned.reached.channels for record in sparse] == [0.25, 0.5]
    assert all(
        0 < record.pruned.reached.macs < record.pruned.reached.channels
        for record in sparse
    )
    assert [outcome.index for outcome in dense.outcomes] == list(range(10))
    assert known.get(Passages, dense.passages_key).indices == tuple(range(10))
    assert {"load", "text", "calibrate", "prune", "evaluate"} <= set(known.stages)
    assert (
        10**8 < run.peak_bytes < 10**11
        and 0 < run.disk_bytes <= folder_size(known.folder).n_bytes
    )
    again, stages = stages_of(settings, known, run_key="again")
    assert (again.dense, again.sparse) == (run.dense, run.sparse)
    assert not {"calibrate", "prune", "evaluate"} & set(stages)
    assert len(again.cached) == 3 and again.disk_bytes < 10**5


def test_a_second_sparsity_runs_no_calibration_and_repeats_its_warning(
    settings, known, no_calibration
):
    assert any("tokens per channel" in warning for warning in known.first.warnings)
    no_calibration()
    run = ran(one(settings), known)
    assert pruned(known, run)[0].widths == (88, 88, 88)
    assert "calibration" in run.cached and run.warnings == known.first.warnings


def test_zero_percent_is_the_dense_model_and_reads_no_calibration(
    settings, known, no_calibration
):
    no_calibration()
    run = ran(one(settings, 0), known)
    assert (run.dense, run.sparse) == (known.first.dense, ())


@pytest.mark.parametrize("budget", ["weights", "bytes", "macs"])
def test_a_share_of_any_budget_is_reached_and_more_than_can_go_is_refused(
    budget, settings, known, monkeypatch
):
    method = replace(
        CHANNELS,
        budget=budget,
        width_multiple=1,
    )
    (pruned_model,) = pruned(known, ran(one(settings, methods=(method,)), known))
    assert (
        pruned_model.reached[budget] == pytest.approx(0.125, abs=0.005)
        and pruned_model.reached.channels > 0.15
    )
    monkeypatch.setattr(pipeline, "dense_record", must_not_run)
    with pytest.raises(
        SettingsError, match=r"Sparsity must be at most .* % of the .*, not '90 %'"
    ):
        ran(one(settings, 900, methods=(method,)), known)


def test_a_sweep_of_eight_sparsities_costs_one_elimination_a_block(
    settings, known, monkeypatch
):
    calls = count_calls(monkeypatch, saliency, "elimination_order")
    obs = MethodSettings(saliency="obs", width_multiple=8)
    run = ran(
        replace(
            settings,
            methods=(obs,),
            sparsities_permille=tuple(range(100, 900, 100)),
        ),
        known,
    )
    assert len(run.sparse) == 8 and len(calls) == 3


def test_a_record_is_measured_before_the_model_is_rounded_to_its_type(
    settings, store, tmp_path, monkeypatch
):
    variant = one(
        settings,
        400,
        dtype="bfloat16",
        methods=(method_named("least-squares"),),
    )
    calls = count_calls(monkeypatch, PrunedChannels, "round_")
    rounded = records(store, ran(variant, store))
    assert len(calls) == 3
    monkeypatch.setattr(PrunedChannels, "round_", lambda *_: None)
    assert fresh_records(variant, tmp_path / "whole") == rounded


# Gradients and rounds.


def test_weighted_tokens_change_every_error_and_need_no_second_backward_pass(
    settings, known, monkeypatch
):
    usual = one(settings, 250, methods=(FISHER,))
    by_residual = replace(settings.calibration, token_weights="residual")
    (plain,) = pruned(known, ran(usual, known))
    monkeypatch.setattr(calibration, "mask_gradients", must_not_run)
    run, stages = stages_of(replace(usual, calibration=by_residual), known)
    (weighted,) = pruned(known, run)
    assert "calibrate" in stages and weighted.calibration == by_residual
    for name in ("layer_errors", "held_out_errors", "passage_errors"):
        pairs = zip(
            getattr(plain, name),
            getattr(weighted, name),
            strict=True,
        )
        assert [before != after for before, after in pairs] == [True] * 3, name


def test_rounds_read_the_text_once_for_every_sparsity_and_never_again(
    settings, known, monkeypatch
):
    rounds = replace(FISHER, allocation="global", rounds=3)
    variant = replace(settings, methods=(rounds,))
    chosen = []
    choose = calibration.choose_channels
    monkeypatch.setattr(
        calibration,
        "choose_channels",
        lambda *given: chosen.append(choose(*given)) or chosen[-1],
    )
    assert [
        pruned_model.sparsity_permille
        for pruned_model in pruned(known, ran(variant, known))
    ] == [250, 500]
    # Of 288 channels, after one and after two thirds of the way: 1 - 0.75 ** (1/3) = 9.1 %, and so
    # on.
    assert [sum(map(len, kept)) for kept in chosen] == [262, 238, 229, 181]
    monkeypatch.setattr(calibration, "mask_gradients", must_not_run)
    assert ran(
        replace(variant, methods=(replace(rounds, compensation="least-squares"),)),
        known,
    ).finished


def test_lost_gradients_are_computed_again_without_a_calibration(
    settings, store, monkeypatch, no_calibration
):
    variant = replace(settings, methods=(FISHER,))
    ran(variant, store)
    for entry in store.entries("artefacts"):
        if entry.tag.startswith("gradients "):
            store.drop_entry("artefacts", entry.name)
    calls = count_calls(monkeypatch, calibration, "mask_gradients")
    no_calibration()
    assert ran(one(variant), store).finished
    assert len(calls) == 1


# Methods that need no calibration text.


@pytest.mark.parametrize("name", ["random", "magnitude-2:4"])
def test_methods_without_calibration_text_never_ask_for_it(
    name, settings, store, tmp_path, monkeypatch, no_calibration
):
    method = replace(method_named(name), width_multiple=8)
    variant = replace(
        settings,
        methods=(method,),
        calibration=CalibrationSettings(n_samples=40, length=24),
    )
    whole = Store(tmp_path / "whole")
    both = ran(replace(variant, methods=(method, CHANNELS)), whole)
    monkeypatch.setattr(CalibrationTexts, "sequences", must_not_run)
    no_calibration()
    run = ran(variant, store)
    assert run.corpora["calibration"].startswith("self:")
    assert set(run.sparse) <= set(both.sparse)
    for key in run.sparse:
        mine = store.get(Record, key)
        measured = whole.get(Record, key)
        # The same keys, models and answers as where the text is read for another method.
        assert (mine.outcomes, mine.pruned) == (measured.outcomes, measured.pruned)
        assert mine.pruned.layer_errors == () != mine.pruned.passage_errors
    whole.close()


@pytest.mark.parametrize(
    "calibration",
    [{"corpus": "file:/nowhere.txt"}, {"n_samples": 1}],
    ids=["missing", "short"],
)
def test_a_text_that_no_method_reads_may_be_missing_or_short(
    calibration, settings, store
):
    variant = replace(
        settings,
        methods=(RANDOM,),
        calibration=replace(settings.calibration, **calibration),
    )
    run = ran(variant, store)
    assert run.finished and run.warnings == ()
    assert preflight.stored_parts(run.settings, store).sparse == len(run.sparse)


def test_results_of_a_method_without_text_stay_once_another_has_read_it(
    settings, passage_file, store, tmp_path, monkeypatch
):
    text = shutil.copy(passage_file, tmp_path / "read.jsonl")
    variant = replace(
        settings,
        methods=(RANDOM,),
        calibration=replace(settings.calibration, corpus=f"file:{text}"),
    )
    first = ran(variant, store)
    ran(replace(variant, methods=(CHANNELS,)), store)
    monkeypatch.setattr(RunModel, "begin", must_not_run)
    assert ran(variant, store).sparse == first.sparse
    assert preflight.stored_parts(variant, store).sparse == len(first.sparse)


# Interrupted and growing runs.


def test_a_growing_run_can_be_read_while_it_runs_and_steps_name_their_model(
    settings, known
):
    seen = {}

    def watch(step):
        if step.stage == "evaluate" and step.point not in seen:
            run = known.get(Run, "watched")
            seen[step.point] = None if run is None else len(run.sparse)

    fresh = replace(settings, evaluation=replace(settings.evaluation, n_passages=6))
    ran(fresh, known, watch, run_key="watched")
    assert seen == {None: None, 0: 0, 1: 1}


def test_a_finished_run_stays_whole_while_it_is_repeated(settings, store):
    run = ran(settings, store)
    seen = []
    store.drop_entry("records", f"record/{run.sparse[1]}")
    ran(settings, store, lambda step: seen.append(store.get(Run, run.key).finished))
    assert all(seen)


def test_forgotten_or_damaged_statistics_are_computed_again(settings, store):
    first = ran(settings, store)
    for name in list(store._caches["artefacts"]):
        harm_entry(store, "artefacts", name)
    run, stages = stages_of(one(settings), store)
    assert "calibrate" in stages
    assert run.finished and first.dense == run.dense


def test_a_run_that_may_stop_early_has_the_whole_dense_record_and_says_how_the_others_ended(
    settings, known
):
    whole = known.first
    run = ran(
        replace(settings, evaluation=replace(settings.evaluation, stop_early=True)),
        known,
    )
    assert run.dense == whole.dense
    assert not set(run.sparse) & set(whole.sparse)
    for early, plain in zip(
        records(known, run)[1:],
        records(known, whole)[1:],
        strict=True,
    ):
        assert plain.stopping is None and early.outcomes == plain.outcomes
        ended = early.stopping
        assert (ended.n_answered, ended.n_passages, ended.n_comparisons) == (10, 10, 2)


# Refusals and warnings.


def test_a_store_too_small_for_the_statistics_is_refused_before_anything_is_computed(
    settings, store, monkeypatch
):
    first = ran(settings, store)
    store.allow_artefacts(1)
    # What is stored already needs no room.
    assert ran(settings, store).sparse == first.sparse
    monkeypatch.setattr(pipeline, "evaluate_together", must_not_run)
    with pytest.raises(StoreError, match=r"takes .* GB; the limit is"):
        ran(one(settings), store)


def test_a_store_that_turns_out_too_small_says_so_after_two_calibrations(
    settings, store, monkeypatch
):
    store.allow_artefacts(1)
    monkeypatch.setattr(pipeline, "require_artefact_room", lambda *_, **limits: None)
    calibrations = count_calls(monkeypatch, StoredStatistics, "reach")
    with pytest.raises(StoreError, match="does not fit"):
        ran(settings, store)
    assert len(calibrations) == 2


def test_a_bad_model_leaves_no_run(settings, known):
    with pytest.raises(ModelError):
        ran(
            replace(settings, model="/nowhere"),
            known,
            run_key="bad",
        )
    assert known.get(Run, "bad") is None


@pytest.mark.parametrize("corpus", ["self", None])
def test_too_little_calibration_text_is_refused_before_anything_is_evaluated(
    settings, known, corpus, monkeypatch
):
    little = replace(
        settings.calibration,
        n_samples=2,
        corpus=corpus or settings.calibration.corpus,
    )
    monkeypatch.setattr(pipeline, "evaluate_models", must_not_run)
    with pytest.raises(CalibrationError, match="too few"):
        ran(replace(settings, calibration=little), known)


def test_methods_that_refit_nothing_need_little_text_and_lose_only_the_errors_on_it(
    settings, known
):
    little = replace(settings.calibration, n_samples=2)
    names = ("wanda-channels", "flap", "wanda")
    plain = replace(
        settings,
        calibration=little,
        methods=tuple(map(method_named, names)),
    )
    for pruned_model in pruned(known, ran(plain, known)):
        assert not pruned_model.layer_errors and not pruned_model.lost_without
    with pytest.raises(CalibrationError, match="refits nothing"):
        ran(replace(plain, methods=(method_named("least-squares"),)), known)


def test_only_methods_that_fit_to_text_are_told_that_it_is_little(settings, known):
    little = replace(settings, calibration=replace(settings.calibration, n_samples=2))
    warnings = [
        ran(
            replace(
                little,
                methods=(method_named(name),),
                sparsities_permille=(340,),
            ),
            known,
        ).warnings
        for name in ("wanda-channels", "shortgpt")
    ]
    assert ["too few to refit" in " ".join(lines) for lines in warnings] == [
        True,
        False,
    ]


def test_widths_that_rounding_left_whole_are_told_when_they_are_made_and_when_they_are_known(
    settings, store
):
    variant = replace(settings, sparsities_permille=(10,))
    for run in (ran(variant, store), ran(variant, store)):
        assert (
            "Nothing was removed at 1 %: kept widths are multiples of 8 channels."
            in run.warnings
        )


@pytest.mark.parametrize(
    ("n_words", "packed", "template"),
    [
        (15, False, "$A"),
        (15, True, "$A"),
        # A short passage, behind a token that the tokenizer prepends.
        (10, False, "<|end|> $A"),
    ],
)
def test_passages_that_repeat_or_stand_in_the_calibration_text_are_counted_in_warnings(
    n_words, packed, template, settings, store, tmp_path
):
    texts = []
    for name in "abcdef":
        texts.append(" ".join(f"{name}{place}" for place in range(n_words)))
    passage_file = write_jsonl(tmp_path / "asked.jsonl", [*texts, *texts[:2]])
    read = write_jsonl(
        tmp_path / "read.jsonl", [*(f"{i} x y z" * 20 for i in range(20)), *texts[:3]]
    )
    settings = replace(
        settings,
        model=str(save_tiny(tmp_path / "model", template=template)),
        calibration=CalibrationSettings(
            corpus=f"file:{read}",
            n_samples=100,
            length=64,
            packed=packed,
        ),
        evaluation=EvaluationSettings(
            corpus=f"file:{passage_file}",
            n_passages=500,
        ),
    )
    run = ran(settings, store)
    assert (
        "Evaluated: 6 of 500 passages, which are all that the text has." in run.warnings
    )
    assert (
        "Left out, since they repeat an earlier one: 2 of 8 passages." in run.warnings
    )
    assert any(
        line.startswith("3 of 6 passages also occur in the calibration text")
        for line in run.warnings
    )
    assert store.get(Record, run.dense).last_word.total == 6
    assert ran(settings, store).warnings == run.warnings


def test_a_dense_model_that_answers_nothing_is_warned_of(settings, store, passage_file):
    assert not any("none of" in line for line in ran(settings, store).warnings)
    all_of_them = replace(settings.evaluation, n_passages=40)
    assert any(
        "none of 40 last words right" in line
        for line in ran(replace(settings, evaluation=all_of_them), store).warnings
    )


# Text by the model itself.


def test_generated_text_is_kept_and_the_same_for_the_same_seed(
    settings, store, tmp_path, monkeypatch
):
    by_model = replace(
        settings, calibration=CalibrationSettings(n_samples=40, length=24)
    )
    second_store = Store(tmp_path / "other")
    for data_store in (store, second_store):
        assert ran(by_model, data_store).corpora["calibration"].startswith("self:")
    (key,) = [
        entry.name
        for entry in store.entries("artefacts")
        if entry.tag.startswith("text ")
    ]
    assert store.get_artefact(key) == second_store.get_artefact(key)
    second_store.close()
    monkeypatch.setattr(run_context, "generate_texts", must_not_run)
    assert ran(one(by_model), store).finished


# What was forgotten, by kind of text.


def test_every_sparse_model_is_measured_by_kind_of_text_after_its_verdict_is_kept(
    settings, store, monkeypatch
):
    n_kept = []
    measure = KindText.measure

    def watched(*arguments):
        n_kept.append(len(store.get(Run, "watched").sparse))
        return measure(*arguments)

    monkeypatch.setattr(KindText, "measure", watched)
    run = ran(settings, store, run_key="watched")
    assert n_kept == [1, 2]
    dense, few, many = (store.get(Record, key) for key in (run.dense, *run.sparse))
    assert not dense.by_kind and len(few.by_kind) == len(many.by_kind) == len(SOURCES)

    def lost(record):
        return sum(sum(loss.blocks) for loss in record.by_kind)

    assert 0 < lost(few) < lost(many)
    assert dense.divergence is None
    assert 0 < few.divergence.kl.value < many.divergence.kl.value


def test_a_run_killed_before_it_was_measured_measures_it_when_resumed(settings, store):
    def kill(*_):
        raise Cancelled

    variant = replace(settings, sparsities_permille=(250,))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cancelled):
        patch.setattr(KindText, "measure", kill)
        ran(variant, store)
    (record,) = [store.get(Record, key) for key in ran(variant, store).sparse]
    whole = fresh_records(variant, store.folder / "fresh")
    assert record.by_kind == whole[1].by_kind
    assert record.divergence == whole[1].divergence
