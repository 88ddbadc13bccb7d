"""What a streamed run reads, reports and keeps in memory; and errors on its way."""

from dataclasses import replace

import pytest

from sparsedash.catalog.presets import method_named
from sparsedash.catalog.resources import MODELS_TOGETHER, WIDE_BYTES
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.comparison.torch_timing import time_models
from sparsedash.engine.export.export import export_model
from sparsedash.engine.models.residency import Streamed
from sparsedash.engine.run import model_making, pipeline, run_context
from sparsedash.schema.errors import Cancelled, ExportError, JobError, ModelError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.pair_records import TimingSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import PartSettings
from sparsedash.storage.store import Store
from tests.engine.run.small_runs import (
    MODEL_CACHE,
    N_BLOCKS,
    fresh_records,
    ran,
    records,
)

TWO = tuple(map(method_named, ("wanda-channels", "least-squares")))


@pytest.fixture(scope="module")
def streamed(settings):
    return replace(
        settings,
        methods=TWO,
        sparsities_permille=(400,),
        residency="streamed",
    )


@pytest.fixture(scope="module")
def expected(streamed, tmp_path_factory):
    return fresh_records(streamed, tmp_path_factory.mktemp("resident"))


@pytest.fixture(scope="module")
def passed(streamed, tmp_path_factory):
    """The store, run and steps of a single pass, and the blocks that it read."""
    store = Store(tmp_path_factory.mktemp("passed"))
    steps = []
    read = []
    with pytest.MonkeyPatch.context() as patch:
        note_readings(patch, read)
        run = ran(streamed, store, lambda step: steps.append((step, len(read))))
    yield store, run, steps, read
    store.close()


def note_readings(patch, read):
    """Note the blocks in the order in which they are brought in, those that are there already not
    counted.
    """
    enter = Streamed._enter

    def watched(self, index):
        if index != self._last:
            read.append(index)
        enter(self, index)

    patch.setattr(Streamed, "_enter", watched)


@pytest.fixture
def together(monkeypatch):
    """How many models were evaluated at a time."""
    counts = []
    evaluate = pipeline.evaluate_models

    def watched(run, models, *given, **more):
        counts.append(len(models))
        return evaluate(run, models, *given, **more)

    monkeypatch.setattr(pipeline, "evaluate_models", watched)
    return counts


# A single pass.


def test_the_share_of_a_stage_never_falls_and_moves_within_a_block(passed):
    _, _, steps, _ = passed
    for stage in ("walk", "evaluate"):
        stage_steps = [step for step, _ in steps if step.stage == stage]
        shares = [step.share for step in stage_steps]
        assert shares == sorted(shares) and len(set(shares)) > 2 * len(
            {step.done for step in stage_steps}
        )


def test_a_single_pass_reads_a_block_once_for_all_of_it(passed):
    _, _, steps, read = passed
    answered = next(
        n_read for step, n_read in steps if step.stage == "evaluate" and step.done
    )
    assert read[:answered] == list(range(N_BLOCKS))


def test_progress_is_that_of_the_pass_until_passages_are_through(passed):
    store, run, steps, _ = passed
    steps = [step for step, _ in steps]
    walk = [step for step in steps if step.stage == "walk"]
    begin = steps.index(walk[0])
    assert steps[begin : begin + len(walk)] == walk
    assert {step.done for step in walk} == set(range(N_BLOCKS))
    assert {(step.total, step.point, step.message) for step in walk} == {
        (N_BLOCKS, 1, "calibrating, pruning and evaluating")
    }
    assert not {"calibrate", "prune"} & {step.stage for step in steps}
    assert steps[begin + len(walk)].stage == "evaluate"
    # Every stage has its own seconds.
    assert run.seconds["calibrate"] > 0 and run.seconds["prune"] > 0
    assert (
        sum(store.get(Record, key).seconds for key in (run.dense, *run.sparse))
        <= run.seconds["evaluate"]
    )
    assert not run.cached


def test_a_second_pass_does_not_calibrate_again_and_lists_only_earlier_records_as_cached(
    passed, streamed
):
    store, first, *_ = passed
    steps = []
    run = ran(replace(streamed, sparsities_permille=(100, 400)), store, steps.append)
    assert {"calibration", "evaluation, dense", "evaluation, 40 % sparse"} == set(
        run.cached
    )
    assert {step.message for step in steps if step.stage == "walk"} == {
        "pruning and evaluating"
    }
    assert set(first.sparse) < set(run.sparse) and len(run.sparse) == 4


@pytest.mark.parametrize(
    ("way", "stop_early", "n_together"),
    [
        ("streamed", False, [MODELS_TOGETHER, 1]),
        ("streamed", True, [1] * 5),
        ("resident", False, [1] * 5),
    ],
)
def test_streamed_models_are_evaluated_together_unless_they_may_stop_early(
    way, stop_early, n_together, streamed, store, together
):
    """Those of a part as well."""
    shown = set()

    def watch(step):
        run = store.get(Run, "shown")
        if run is not None and step.stage == "walk" and step.done == 0:
            shown.add((bool(run.dense), len(run.sparse)))

    variant = replace(
        streamed,
        sparsities_permille=(200, 400),
        residency=way,
    )
    ran(
        replace(variant, evaluation=replace(variant.evaluation, stop_early=stop_early)),
        store,
        watch,
        run_key="shown",
    )
    assert together == n_together
    # A page sees all records that there are, before the rest is made.
    assert shown == ({(True, 3)} if max(n_together) > 1 else set())
    part = PartSettings(
        run=replace(variant, sparsities_permille=(300, 500)),
        run_key="r",
        points=(0, 2),
    )
    part_run = pipeline.run_part(part, store, ignore_steps, MODEL_CACHE)
    assert len(part_run.sparse) == 2 and together[len(n_together) :] == (
        [1, 1] if way == "resident" else [2]
    )


# Errors on the way.


def test_a_cancelled_pass_is_not_begun_again_one_by_one(streamed, store, together):
    def stop(step):
        if step.stage == "walk" and step.done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(streamed, store, stop)
    assert together == [len(TWO) + 1]


def test_an_error_of_one_model_is_left_to_its_own_turn(
    streamed, store, expected, monkeypatch
):
    sparse_model = model_making.sparse_model
    calls = []
    steps = []

    def breaks(*asked):
        calls.append(asked)
        if len(calls) == 2:
            raise ModelError("Once.")
        return sparse_model(*asked)

    monkeypatch.setattr(model_making, "sparse_model", breaks)
    assert records(store, ran(streamed, store, steps.append)) == expected
    assert not {"walk"} & {step.stage for step in steps}


def test_statistics_that_are_lost_on_the_way_are_collected_again(
    streamed, store, expected, monkeypatch
):
    lost = []
    get = Store.get_artefact

    def loses(self, key):
        if key.endswith("/1") and not lost and self.has_entry("artefacts", key):
            lost.append(key)
            return None
        return get(self, key)

    monkeypatch.setattr(Store, "get_artefact", loses)
    assert records(store, ran(streamed, store)) == expected
    assert lost


def test_a_broken_model_ends_the_run_when_those_before_it_have_records(
    streamed, store, together, monkeypatch
):
    sparse_model = model_making.sparse_model

    def breaks(run, spec):
        if spec.permille == 400:
            raise ModelError("Its weights are no numbers.")
        return sparse_model(run, spec)

    monkeypatch.setattr(model_making, "sparse_model", breaks)
    with pytest.raises(ModelError, match="no numbers"):
        ran(
            replace(streamed, sparsities_permille=(200, 400, 600)),
            store,
            run_key="broken",
        )
    assert together == [1, 1]
    kept = store.get(Run, "broken")
    assert kept.dense and len(kept.sparse) == 1 and not kept.finished


# Memory.


def test_what_does_not_fit_into_memory_is_neither_rounded_on_export_nor_timed(
    passed, tmp_path, monkeypatch
):
    store, run, *_ = passed
    # As on a machine whose memory is too small: rebuilding a record's model asks for neither way.
    monkeypatch.setattr(run_context, "memory_bytes", lambda: 1)
    settings = ExportSettings(
        dense=run.dense,
        sparse=run.sparse[0],
        form="padded",
        to=str(tmp_path / "rounded"),
        weights="bfloat16",
    )
    with pytest.raises(ExportError, match="does not fit into memory"):
        export_model(
            settings,
            store,
            MODEL_CACHE,
            ignore_steps,
            lambda facts: "",
        )
    assert not (tmp_path / "rounded").exists()
    with pytest.raises(JobError, match="a timing would measure the disk"):
        time_models(
            TimingSettings(dense=run.dense, sparse=run.sparse[0]),
            store,
            ModelPairCache(MODEL_CACHE),
        )


@pytest.mark.parametrize(
    ("memory", "way", "streams"),
    [(2**40, None, False), (1, None, True), (1, "resident", False)],
)
def test_memory_decides_by_default_and_what_is_left_of_it_is_for_widened_weights(
    memory, way, streams, settings, store, monkeypatch
):
    messages = []
    rooms = []
    monkeypatch.setattr(
        run_context, "keep_fp32_copies", lambda _, room: rooms.append(room)
    )
    monkeypatch.setattr(run_context, "memory_bytes", lambda: memory)
    variant = replace(settings, residency=way or settings.residency)
    run = run_context.RunContext(
        variant, store, lambda step: messages.append(step.message), MODEL_CACHE
    )
    assert run.loaded.residency.streamed is streams
    assert (f"Reading {settings.model} block by block" in messages) is streams
    assert [room == WIDE_BYTES for room in rooms] == [memory == 2**40] * (not streams)
    assert memory > 1 or all(room <= 0 for room in rooms)
