"""The main job on a tiny model: what is computed, what is remembered, what survives being stopped."""

from dataclasses import replace

import pytest

from sparsedash.catalog.engine_limits import MOST_TEXTS
from sparsedash.catalog.presets import method_named
from sparsedash.engine.calibration import calibration_cache
from sparsedash.engine.calibration.statistics import mlp_statistics_collector
from sparsedash.engine.pruning import saliency
from sparsedash.engine.run import pipeline, run_context, sparse_models
from sparsedash.schema.errors import CalibrationError, Cancelled, ModelError, StoreError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service import preflight
from sparsedash.storage.local_machine import folder_size
from sparsedash.storage.store import Store
from tests.engine.conftest import write_jsonl


@pytest.fixture
def settings(model_folder, passage_file):
    return RunSettings(
        model=str(model_folder),
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250, 500),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}[20:]", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=10),
    )


class Steps(list):
    def __call__(self, step):
        self.append(step.stage)


def _run(settings, store, **more):
    steps = Steps()
    return pipeline.run(settings, store, steps, **more), steps


def test_a_run_keeps_the_dense_record_and_one_for_every_sparsity(settings, store):
    run, steps = _run(settings, store)
    dense = store.get(Record, run.dense)
    sparse = [store.get(Record, key) for key in run.sparse]
    assert run.finished
    assert store.get(Run, settings.key(_fingerprints(settings))) == run
    assert dense.pruned is None
    assert [record.pruned.widths for record in sparse] == [(72, 72, 72), (48, 48, 48)]
    assert [record.pruned.mlp_sparsity for record in sparse] == [0.25, 0.5]
    assert all(0 < record.pruned.matmul_ratio < record.pruned.mlp_sparsity for record in sparse)
    assert [o.index for o in dense.outcomes] == list(range(10))
    assert store.get(Passages, dense.passages_key).indices == tuple(range(10))
    assert {"load", "text", "calibrate", "prune", "evaluate"} <= set(steps)


def _fingerprints(settings):
    from sparsedash.storage.text_files import fingerprints

    return fingerprints(settings)


def test_the_same_request_again_loads_no_model_and_computes_nothing(settings, store):
    first, _ = _run(settings, store)
    again, steps = _run(settings, store)
    assert (again.dense, again.sparse) == (first.dense, first.sparse)
    assert not {"calibrate", "prune", "evaluate"} & set(steps)
    assert len(again.cached) == 3


def test_a_second_sparsity_runs_no_calibration(settings, store, monkeypatch):
    _run(settings, store)
    monkeypatch.setattr(sparse_models, "calibrating", _must_not_run)
    run, steps = _run(replace(settings, sparsities_permille=(125,)), store)
    assert store.get(Record, run.sparse[0]).pruned.widths == (88, 88, 88)
    assert "calibrate" not in steps
    assert "calibration" in run.cached


def _must_not_run(*_, **__):
    raise AssertionError("this stage was in the store")


def test_weighted_tokens_change_every_error_and_need_no_second_backward_pass(settings, store, monkeypatch):
    fisher = MethodSettings(saliency="fisher", compensation="none", width_multiple=8)
    usual = replace(settings, methods=(fisher,), sparsities_permille=(250,))
    calibration = replace(settings.calibration, token_weights="residual")
    run, _ = _run(usual, store)
    monkeypatch.setattr(calibration_cache, "mask_gradients", _must_not_run)
    other, steps = _run(replace(usual, calibration=calibration), store)
    assert "calibrate" in steps
    plain, weighted = (store.get(Record, r.sparse[0]).pruned for r in (run, other))
    assert weighted.calibration == calibration
    for name in ("layer_errors", "held_out_errors", "passage_errors"):
        pairs = zip(getattr(plain, name), getattr(weighted, name), strict=True)
        different = [one != two for one, two in pairs]
        assert different == [True] * 3, name


def test_rounds_read_the_text_once_for_every_sparsity_and_never_again(settings, store, monkeypatch):
    calls = []
    mask_gradients = calibration_cache.mask_gradients

    def counting(loaded, sequences, on_step, *, n_rounds, masks, made):
        widths = []

        def noting(done, so_far, on_block):
            found = masks(done, so_far, on_block)
            widths.append(sum(int(mask.sum()) for mask in found))
            return found

        calls.append(widths)
        return mask_gradients(loaded, sequences, on_step, n_rounds=n_rounds, masks=noting, made=made)

    monkeypatch.setattr(calibration_cache, "mask_gradients", counting)
    rounds = MethodSettings(saliency="fisher", compensation="none", allocation="global", rounds=3, width_multiple=8)
    asked = replace(settings, methods=(rounds,))
    run, _ = _run(asked, store)
    assert [store.get(Record, key).pruned.sparsity_permille for key in run.sparse] == [250, 500]
    # Of 288 channels, after one and after two thirds of the way: 1 - 0.75 ** (1/3) = 9.1 %, and so on.
    assert calls == [[262, 238], [229, 181]]
    monkeypatch.setattr(calibration_cache, "mask_gradients", _must_not_run)
    refitted = replace(asked, methods=(replace(rounds, compensation="least-squares"),))
    _, steps = _run(refitted, store)
    assert "prune" in steps


def test_fewer_sequences_than_rounds_still_get_as_sparse_as_was_asked(settings, store, monkeypatch):
    reached = []
    choose = calibration_cache.choose

    def noting(mlps, so_far, method, permille, on_block):
        reached.append(permille)
        return choose(mlps, so_far, method, permille, on_block)

    monkeypatch.setattr(calibration_cache, "choose", noting)
    rounds = MethodSettings(saliency="fisher", compensation="none", rounds=6, schedule="linear", width_multiple=8)
    three = replace(settings.calibration, n_samples=3, length=128, packed=True)
    asked = replace(settings, methods=(rounds,), sparsities_permille=(300,), calibration=three)
    _run(asked, store)
    assert reached == [100, 200]


@pytest.mark.parametrize("name", ["random", "magnitude", "magnitude-weights", "magnitude-2:4"])
def test_methods_that_depend_on_no_calibration_text_never_ask_for_it(name, settings, store, monkeypatch):
    own = CalibrationSettings(n_samples=40, length=24)
    method = replace(method_named(name), width_multiple=8)
    asked = replace(settings, methods=(method,), calibration=own)
    whole = Store(store.folder.parent / "whole")
    both, _ = _run(replace(asked, methods=(method, settings.methods[0])), whole)
    monkeypatch.setattr(run_context.RunTexts, "sequences", _must_not_run)
    monkeypatch.setattr(sparse_models, "calibrating", _must_not_run)
    run, steps = _run(asked, store)
    assert "calibrate" not in steps and run.corpora["calibration"].startswith("self:")
    for key in run.sparse:
        mine, measured = store.get(Record, key), whole.get(Record, key)
        # The same keys, models and answers as where the text is read for another method.
        assert mine.outcomes == measured.outcomes
        assert (mine.pruned.widths, mine.pruned.matmul_ratio) == (measured.pruned.widths, measured.pruned.matmul_ratio)
        assert mine.pruned.passage_errors == measured.pruned.passage_errors
        assert (mine.pruned.layer_errors, mine.pruned.held_out_errors) == ((), ())
        assert len(measured.pruned.layer_errors) == 3
    assert set(run.sparse) <= set(both.sparse)
    whole.close()


def test_a_text_file_that_no_method_reads_is_not_even_opened(settings, store, tmp_path):
    lots = replace(settings, methods=(MethodSettings(saliency="random", compensation="none", width_multiple=8),))
    nowhere = CalibrationSettings(corpus=f"file:{tmp_path / 'nowhere.txt'}")
    run, _ = _run(replace(lots, calibration=nowhere), store)
    assert run.finished and preflight.stored_parts(run.settings, store).sparse == len(run.sparse)


def test_nobody_waits_for_a_text_that_only_methods_without_text_would_be_measured_on(settings, store, monkeypatch):
    calibrated = []

    def counting(*args, **more):
        calibrated.append(args)
        return mlp_statistics_collector(*args, **more)

    monkeypatch.setattr(sparse_models, "calibrating", counting)
    half = replace(settings.methods[0], plain_text=0.5)
    lots = MethodSettings(saliency="random", compensation="none", width_multiple=8)
    run, _ = _run(replace(settings, methods=(half, lots), sparsities_permille=(500,)), store)
    assert len(calibrated) == 1
    assert [len(store.get(Record, key).pruned.layer_errors) for key in run.sparse] == [3, 0]


def test_statistics_that_are_there_measure_also_a_method_that_does_not_need_them(settings, store, monkeypatch):
    _run(settings, store)
    monkeypatch.setattr(run_context.RunTexts, "sequences", _must_not_run)
    lots = replace(settings, methods=(MethodSettings(saliency="random", compensation="none", width_multiple=8),))
    run, _ = _run(lots, store)
    assert len(store.get(Record, run.sparse[0]).pruned.layer_errors) == 3
    monkeypatch.setattr(store, "get_artefact", lambda key: None)
    run, _ = _run(replace(lots, sparsities_permille=(125,)), store)
    assert store.get(Record, run.sparse[0]).pruned.layer_errors == ()


def test_too_little_calibration_text_is_no_matter_where_none_is_read(settings, store):
    lots = replace(settings, methods=(MethodSettings(saliency="random", compensation="none", width_multiple=8),))
    run, _ = _run(replace(lots, calibration=replace(settings.calibration, n_samples=1)), store)
    assert run.finished and run.warnings == ()


def test_a_run_says_what_it_took_of_memory_and_disk(settings, store):
    run, _ = _run(settings, store)
    assert 10**8 < run.peak_bytes < 10**11
    lies_there = folder_size(store.folder).n_bytes
    assert 0 < run.disk_bytes <= lies_there
    again, _ = _run(settings, store)
    assert again.disk_bytes < 10**5


def test_nothing_removed_needs_no_backward_pass(settings, store, monkeypatch):
    monkeypatch.setattr(calibration_cache, "mask_gradients", _must_not_run)
    rounds = MethodSettings(saliency="fisher", compensation="none", rounds=3, width_multiple=8)
    for method in (rounds, replace(rounds, rounds=1)):
        run, _ = _run(replace(settings, methods=(method,), sparsities_permille=(0,)), store)
        dense, sparse = (store.get(Record, key) for key in (run.dense, run.sparse[0]))
        assert sparse.pruned.widths == sparse.pruned.dense_widths
        assert set(sparse.pruned.layer_errors) == {0.0}
        assert sparse.last_word == dense.last_word


def test_gradients_that_the_store_has_lost_are_gathered_again_without_a_calibration(settings, store, monkeypatch):
    fisher = MethodSettings(saliency="fisher", compensation="none", width_multiple=8)
    asked = replace(settings, methods=(fisher,), sparsities_permille=(250,))
    _run(asked, store)
    calls = []
    mask_gradients = calibration_cache.mask_gradients

    def losing(loaded, sequences, on_step, **more):
        calls.append(1)
        return mask_gradients(loaded, sequences, on_step, **more)

    read = store.get_artefact
    monkeypatch.setattr(calibration_cache, "mask_gradients", losing)
    monkeypatch.setattr(
        store, "get_artefact", lambda key: None if _of_gradients(read(key)) and not calls else read(key)
    )
    _, steps = _run(replace(asked, sparsities_permille=(500,)), store)
    assert calls == [1]
    assert "prune" in steps


def _of_gradients(data):
    return data is not None and b"mask_gradients" in data[:200]


def test_a_sweep_of_eight_sparsities_costs_one_elimination_a_block(settings, store, monkeypatch):
    calls = []
    elimination_order = saliency.elimination_order

    def counting(layer):
        calls.append(1)
        return elimination_order(layer)

    monkeypatch.setattr(saliency, "elimination_order", counting)
    sweep = replace(
        settings,
        methods=(MethodSettings(saliency="obs", width_multiple=8),),
        sparsities_permille=tuple(range(100, 900, 100)),
    )
    run, _ = _run(sweep, store)
    assert len(run.sparse) == 8
    assert len(calls) == 3


def test_zero_percent_gives_the_dense_answers(settings, store):
    run, _ = _run(replace(settings, sparsities_permille=(0,)), store)
    dense, zero = store.get(Record, run.dense), store.get(Record, run.sparse[0])
    assert zero.outcomes == dense.outcomes
    assert zero.pruned.mlp_sparsity == zero.pruned.matmul_ratio == 0


def test_a_fresh_store_gives_the_same_numbers_to_the_bit(settings, store, tmp_path):
    first, _ = _run(settings, store)
    other = Store(tmp_path / "other")
    second, _ = _run(settings, other)
    for ours, theirs in zip(first.sparse, second.sparse, strict=True):
        assert ours == theirs
        assert store.get(Record, ours).outcomes == other.get(Record, theirs).outcomes
    other.close()


def test_compensation_lowers_the_error_on_the_calibration_text(settings, store):
    plain = MethodSettings(width_multiple=8, compensation="none")
    run, _ = _run(replace(settings, methods=(*settings.methods, plain)), store)
    fitted, unfitted = (store.get(Record, run.sparse[i]).pruned.layer_errors for i in (0, 2))
    assert all(f < u for f, u in zip(fitted, unfitted, strict=True))


@pytest.mark.parametrize("stage", ["load", "text", "calibrate", "prune", "evaluate"])
def test_a_run_stopped_in_any_stage_ends_the_same_when_started_again(settings, store, tmp_path, stage):
    def stop(step):
        if step.stage == stage and step.done >= step.total // 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        pipeline.run(settings, store, stop)
    run, _ = _run(settings, store)
    other = Store(tmp_path / "other")
    straight, _ = _run(settings, other)
    for ours, theirs in zip(run.sparse, straight.sparse, strict=True):
        assert store.get(Record, ours).outcomes == other.get(Record, theirs).outcomes
    other.close()


def test_a_growing_run_can_be_read_while_it_runs(settings, store):
    seen = {}

    def watch(step):
        if step.stage == "evaluate" and step.point not in seen:
            run = store.get(Run, "watched")
            seen[step.point] = None if run is None else len(run.sparse)

    pipeline.run(settings, store, watch, run_key="watched")
    assert list(seen.values()) == [None, 0, 1]


def test_every_step_tells_whose_answers_it_counts(settings, store):
    told = []

    def watch(step):
        if step.stage == "evaluate" and step.point not in told:
            told.append(step.point)

    pipeline.run(settings, store, watch)
    assert told == [None, 0, 1]


def test_statistics_that_were_forgotten_or_damaged_are_computed_again(settings, store):
    first, _ = _run(settings, store)
    for name in list(store._artefacts):
        store._artefacts.set(name, b"damaged")
    run, steps = _run(replace(settings, sparsities_permille=(125,)), store)
    assert "calibrate" in steps
    assert run.finished and first.dense == run.dense


def test_a_store_too_small_for_the_statistics_is_refused_before_anything_is_computed(settings, tmp_path, monkeypatch):
    tiny = Store(tmp_path / "tiny", artefact_bytes=1)
    monkeypatch.setattr(pipeline, "evaluate_together", _must_not_run)
    with pytest.raises(StoreError, match=r"takes .* GB, and there is room for"):
        _run(settings, tiny)
    tiny.close()


def test_what_is_stored_already_needs_no_room(settings, tmp_path):
    store = Store(tmp_path / "shrinking")
    first, _ = _run(settings, store)
    store.close()
    tiny = Store(tmp_path / "shrinking", artefact_bytes=1)
    again, _ = _run(settings, tiny)
    assert again.sparse == first.sparse
    tiny.close()


def test_room_is_counted_for_the_text_that_there_is(settings, store, monkeypatch):
    asked = []
    monkeypatch.setattr(pipeline, "kept_bytes", lambda *given: asked.append(given[-1]) or 0)
    calibration = replace(settings.calibration, n_samples=5_000)
    fisher = MethodSettings(saliency="fisher", compensation="none", width_multiple=8)
    _run(replace(settings, calibration=calibration, methods=(fisher,)), store)
    assert 0 < asked[0] < 5_000


def test_a_store_that_turns_out_too_small_says_so_after_two_calibrations(settings, tmp_path, monkeypatch):
    tiny = Store(tmp_path / "tiny", artefact_bytes=1)
    monkeypatch.setattr(pipeline, "kept_bytes", lambda *_: 0)
    calibrations = []

    def counted(*given, **options):
        calibrations.append(1)
        return mlp_statistics_collector(*given, **options)

    monkeypatch.setattr(sparse_models, "calibrating", counted)
    with pytest.raises(StoreError, match="does not fit"):
        _run(settings, tiny)
    assert len(calibrations) == 2
    tiny.close()


def test_gradients_that_were_forgotten_cost_no_second_calibration(settings, store, monkeypatch):
    fisher = MethodSettings(saliency="fisher", compensation="none", width_multiple=8)
    asked = replace(settings, methods=(fisher,))
    _run(asked, store)
    for name in list(store._artefacts):
        if store._artefacts[name].find(b"mask_gradients") >= 0:
            del store._artefacts[name]
    monkeypatch.setattr(sparse_models, "calibrating", _must_not_run)
    run, _ = _run(replace(asked, sparsities_permille=(125,)), store)
    assert run.finished


def test_text_by_the_model_itself_needs_no_file_and_is_kept(settings, store, monkeypatch):
    own = replace(settings, calibration=CalibrationSettings(n_samples=40, length=24))
    run, _ = _run(own, store)
    assert run.corpora["calibration"].startswith("self:")
    monkeypatch.setattr(run_context, "sample_texts", _must_not_run)
    monkeypatch.setattr(pipeline.RunRecords, "known", lambda *_: None)
    _run(own, store)


def test_writing_text_counts_the_tokens_that_were_asked_for(settings, store):
    written = []

    def watch(step):
        if step.unit == "tokens":
            written.append(step)

    n = MOST_TEXTS + 10
    own = replace(settings, calibration=CalibrationSettings(n_samples=n, length=128))
    pipeline.run(own, store, watch)
    counts = [step.done for step in written]
    assert {step.total for step in written} == {n * 128}
    assert counts == sorted(counts)
    assert MOST_TEXTS < counts[0] < MOST_TEXTS * 128
    assert MOST_TEXTS * 128 in counts and counts[-1] == n * 128


def test_a_self_written_text_is_the_same_for_the_same_seed(settings, store, tmp_path):
    own = replace(settings, calibration=CalibrationSettings(n_samples=40, length=24))
    _run(own, store)
    other = Store(tmp_path / "other")
    _run(own, other)
    keys = [k for k in store._artefacts if "/" not in k]
    assert keys
    assert all(store.get_artefact(k) == other.get_artefact(k) for k in keys)
    other.close()


def test_fewer_passages_than_were_asked_for_are_told_in_the_run(settings, store):
    evaluation = replace(settings.evaluation, n_passages=500)
    said = "The text has 40 passages, not the 500 that were asked for; all are answered."
    for key in ("first", "everything stored"):
        run = pipeline.run(replace(settings, evaluation=evaluation), store, run_key=key)
        assert said in run.warnings


def test_few_calibration_tokens_are_told_in_every_run_that_rests_on_them(settings, store, monkeypatch):
    run, _ = _run(settings, store)
    assert any("tokens a channel" in warning for warning in run.warnings)
    monkeypatch.setattr(sparse_models, "calibrating", _must_not_run)
    again, _ = _run(replace(settings, sparsities_permille=(125,)), store)
    assert again.warnings == run.warnings


def test_a_model_in_bfloat16_has_keys_of_its_own(settings, store):
    first, _ = _run(settings, store)
    second, _ = _run(replace(settings, dtype="bfloat16"), store)
    assert first.dense != second.dense


def test_a_bad_model_leaves_no_run(settings, store):
    with pytest.raises(ModelError):
        _run(replace(settings, model="/nowhere"), store, run_key="bad")
    assert store.get(Run, "bad") is None


@pytest.mark.parametrize("corpus", ["self", None])
def test_too_little_calibration_text_is_refused_before_anything_is_evaluated(settings, store, corpus):
    little = replace(settings.calibration, n_samples=2, corpus=corpus or settings.calibration.corpus)
    steps = Steps()
    with pytest.raises(CalibrationError, match="too few"):
        pipeline.run(replace(settings, calibration=little), store, steps)
    assert "evaluate" not in steps


def test_methods_that_refit_nothing_need_little_text_and_lose_only_the_errors_on_it(settings, store):
    little = replace(settings.calibration, n_samples=2)
    names = ("wanda-channels", "flap", "wanda")
    plain = replace(settings, calibration=little, methods=tuple(map(method_named, names)))
    run, _ = _run(plain, store)
    for key in run.sparse:
        made = store.get(Record, key).pruned
        assert not made.layer_errors
        assert not made.lost_without
    with pytest.raises(CalibrationError, match="refits nothing"):
        _run(replace(plain, methods=(method_named("least-squares"),)), store)


def test_a_finished_run_stays_whole_while_it_is_repeated(settings, store):
    run, _ = _run(settings, store)
    store._records.delete(f"record/{run.sparse[1]}")
    seen = []

    def watch(step):
        seen.append(store.get(Run, run.key).finished)

    pipeline.run(settings, store, watch)
    assert all(seen)


def test_a_run_that_may_stop_early_has_the_whole_dense_record_and_says_how_the_others_ended(settings, store):
    whole, _ = _run(settings, store)
    early = replace(settings, evaluation=replace(settings.evaluation, stop_early=True))
    run, _ = _run(early, store)
    assert run.dense == whole.dense
    assert not set(run.sparse) & set(whole.sparse)
    for key, other in zip(run.sparse, whole.sparse, strict=True):
        record, plain = store.get(Record, key), store.get(Record, other)
        assert plain.stopping is None
        assert record.outcomes == plain.outcomes
        assert (record.stopping.n_answered, record.stopping.n_passages) == (10, 10)
        assert record.stopping.n_comparisons == 2


def test_passages_that_repeat_or_stand_in_the_calibration_text_are_counted_in_warnings(settings, store, tmp_path):
    texts = [" ".join(f"{name}{place}" for place in range(15)) for name in "abcdef"]
    asked = write_jsonl(tmp_path / "asked.jsonl", [*texts, *texts[:2]])
    read = write_jsonl(tmp_path / "read.jsonl", [*(f"{i} x y z" * 20 for i in range(20)), *texts[:3]])
    settings = replace(
        settings,
        calibration=CalibrationSettings(corpus=f"file:{read}", n_samples=100, length=64),
        evaluation=EvaluationSettings(corpus=f"file:{asked}"),
    )
    run, _ = _run(settings, store)
    assert "2 of 8 passages repeat an earlier one and are left out." in run.warnings
    assert any(line.startswith("3 of 6 passages also stand in the calibration text") for line in run.warnings)
    assert store.get(Record, run.dense).last_word.total == 6
    again, _ = _run(settings, store)
    assert again.warnings == run.warnings
