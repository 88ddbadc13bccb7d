"""Streamed = resident, one pass = several, together = alone: the same records, exports and continuations."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.catalog.resources import MODELS_TOGETHER, WIDE_BYTES
from sparsedash.engine.calibration.statistics import StatisticsCollector
from sparsedash.engine.comparison.continuation import continue_prompt
from sparsedash.engine.comparison.divergence import measure_divergence
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.comparison.timing import time_models
from sparsedash.engine.export import export as exporting
from sparsedash.engine.export.export import export_model
from sparsedash.engine.models import residency
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.models.residency import Streamed
from sparsedash.engine.pruning.allocation import ALLOCATIONS
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.layer import LazySequence
from sparsedash.engine.pruning.saliency import SALIENCIES
from sparsedash.engine.run import pipeline, run_context, sparse_models
from sparsedash.schema.errors import CalibrationError, Cancelled, ExportError, JobError, ModelError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings, TimingSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import PartSettings
from sparsedash.storage import store as stores
from sparsedash.storage.store import Store
from tests.engine.run.small_runs import N_BLOCKS, fresh_records, ran, records

LOCAL = ("least-squares", "wanda-channels", "wanda", "sparsegpt")
ALL = tuple(method.name for method in METHODS)


def narrow(name):
    method = method_named(name)
    return replace(method, width_multiple=8) if method.takes_channels else method


@pytest.fixture
def streamed(settings):
    methods = tuple(map(method_named, LOCAL[:3]))
    longer = replace(settings.calibration, n_samples=60, length=64)
    return replace(settings, methods=methods, sparsities_permille=(400,), calibration=longer, residency="streamed")


@pytest.fixture(scope="module")
def both(settings, tmp_path_factory):
    """The store, the shelf and the run of every preset, resident first."""
    asked, made = replace(settings, methods=tuple(map(narrow, ALL)), sparsities_permille=(200, 400)), {}
    for way in ("resident", "streamed"):
        store, shelf = Store(tmp_path_factory.mktemp(way)), ModelShelf()
        made[way] = store, shelf, pipeline.run(replace(asked, residency=way), store, shelf=shelf)
    yield made
    for store, *_ in made.values():
        store.close()


def test_every_preset_has_the_same_records_under_the_same_keys(both):
    (resident, one), (streamed, other) = ((run, records(store, run)) for store, _, run in both.values())
    assert (streamed.key, streamed.dense, streamed.sparse) == (resident.key, resident.dense, resident.sparse)
    assert other == one


@pytest.mark.parametrize("names", [LOCAL, ("random", "magnitude-2:4"), ("wanda-channels",)])
@pytest.mark.parametrize("at_a_time", [1, MODELS_TOGETHER])
def test_models_have_the_same_records_together_and_alone(names, at_a_time, streamed, store, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "MODELS_TOGETHER", at_a_time)
    asked = replace(streamed, methods=tuple(map(method_named, names)), sparsities_permille=(200, 400))
    assert records(store, ran(asked, store)) == fresh_records(asked, tmp_path / "resident")


# What is read, and how many models are evaluated together.


@pytest.fixture
def readings(monkeypatch):
    """The blocks in the order in which they were brought in, those that are there already not counted."""
    read, enter = [], Streamed._enter

    def watched(self, block):
        if block is not self._there:
            read.append(self._blocks.index(block))
        enter(self, block)

    monkeypatch.setattr(Streamed, "_enter", watched)
    return read


@pytest.fixture
def together(monkeypatch):
    """How many models were evaluated at a time."""
    asked, evaluate = [], pipeline.evaluate_models
    watched = lambda run, models, *given, **more: asked.append(len(models)) or evaluate(run, models, *given, **more)  # noqa: E731
    monkeypatch.setattr(pipeline, "evaluate_models", watched)
    return asked


@pytest.mark.parametrize(("last", "single"), [("wanda-channels", True), ("obs-sequential", False)])
def test_in_a_single_pass_a_block_is_read_once_for_all_of_it(last, single, streamed, store, readings):
    before_answers = []

    def watch(step):
        if step.stage == "evaluate" and step.done and not before_answers:
            before_answers.extend(readings)

    methods = tuple(map(method_named, (LOCAL[0], last)))
    ran(replace(streamed, methods=methods, sparsities_permille=(200,)), store, watch)
    # The first block is read for the bytes of a token's KV cache before the walk begins there.
    assert before_answers == list(range(N_BLOCKS)) if single else len(before_answers) > 4 * N_BLOCKS


def test_a_block_is_read_once_for_all_models_also_for_words_that_go_on(streamed, tmp_path, readings, monkeypatch):
    asked, found = replace(streamed, methods=streamed.methods[1:], sparsities_permille=(200, 400, 600)), []
    for at_a_time in (MODELS_TOGETHER, 1):
        monkeypatch.setattr(pipeline, "MODELS_TOGETHER", at_a_time)
        store = Store(tmp_path / str(at_a_time))
        ran(asked, store)
        readings.clear()
        # Calibrated and pruned already.
        ran(replace(asked, evaluation=replace(asked.evaluation, n_passages=12)), store)
        found.append(readings.count(0))
        store.close()
    shared, one_by_one = found
    assert shared < 0.6 * one_by_one


def test_what_looks_back():
    back = {method.name for method in METHODS if method.settings.looks_back}
    by_blocks = {"best", "flap", "obs-by-sensitivity", "least-squares-by-sensitivity"}
    assert back == by_blocks | {"obs-sequential", "retrain-free (published)"}
    # As the rows say that make it so.
    for each in (method.settings for method in METHODS):
        row = ALLOCATIONS[each.allocation], COMPENSATIONS[each.compensation], SALIENCIES[each.saliency]
        assert each.looks_back == (not row[0].alone or row[1].sequential or row[2].by_gradient)


@pytest.mark.parametrize(
    ("way", "stop_early", "n_together"),
    [
        ("streamed", False, [MODELS_TOGETHER, 7 - MODELS_TOGETHER]),
        ("streamed", True, [1] * 7),
        ("resident", False, [1] * 7),
    ],
)
def test_streamed_models_are_evaluated_together_unless_they_may_stop_early(
    way, stop_early, n_together, streamed, store, together
):
    asked = replace(streamed, methods=streamed.methods[:2], sparsities_permille=(200, 400, 600), residency=way)
    ran(replace(asked, evaluation=replace(asked.evaluation, stop_early=stop_early)), store)
    assert together == n_together


def test_the_models_of_a_part_are_evaluated_together_as_well(streamed, store, together):
    part = PartSettings(run=streamed, run_key=streamed.key(), points=(0, 2))
    made = pipeline.run_part(part, store, ignore_steps, ModelShelf())
    assert together == [3] and len(made.sparse) == 2


def test_records_made_ahead_are_not_listed_as_cached(streamed, store):
    asked = replace(streamed, methods=streamed.methods[1:], sparsities_permille=(200, 400))
    assert not ran(asked, store).cached
    again = ran(replace(asked, sparsities_permille=(200, 300, 400)), store)
    assert {"evaluation, dense", "evaluation, 20 % sparse"} <= set(again.cached)
    assert "evaluation, 30 % sparse" not in again.cached
    assert len(again.sparse) == 6


# Progress.


def test_progress_is_that_of_the_pass_until_passages_are_through(streamed, store):
    steps = []
    ran(streamed, store, steps.append)
    walk = [step for step in steps if step.stage == "walk"]
    begin = steps.index(walk[0])
    assert steps[begin : begin + len(walk)] == walk
    assert [step.done for step in walk] == sorted(step.done for step in walk)
    assert {step.done for step in walk} == set(range(N_BLOCKS)) and {step.total for step in walk} == {N_BLOCKS}
    assert {(step.point, step.message) for step in walk} == {(2, "calibrating, pruning and answering")}
    assert not {"calibrate", "prune"} & {step.stage for step in steps}
    assert not {"evaluate"} & {step.stage for step in steps[:begin]}
    assert steps[begin + len(walk)].stage == "evaluate"


def test_every_stage_has_its_own_seconds(streamed, store, monkeypatch):
    block = StatisticsCollector._block

    def slowly(self, walk, index):
        time.sleep(0.1)
        block(self, walk, index)

    monkeypatch.setattr(StatisticsCollector, "_block", slowly)
    run = ran(streamed, store)
    assert run.seconds["calibrate"] >= 0.1 * N_BLOCKS and run.seconds["prune"] > 0
    answering = sum(store.get(Record, key).seconds for key in (run.dense, *run.sparse))
    assert answering <= run.seconds["evaluate"] <= run.finished_at - run.started_at - 0.1 * N_BLOCKS


def test_a_second_pass_does_not_calibrate_again(streamed, store):
    steps = []
    ran(streamed, store)
    run = ran(replace(streamed, sparsities_permille=(100, 300)), store, steps.append)
    assert "calibration" in run.cached
    assert {step.message for step in steps if step.stage == "walk"} == {"pruning and answering"}


def test_the_run_is_shown_with_all_records_that_there_are(streamed, store):
    asked, shown = replace(streamed, methods=streamed.methods[:2], sparsities_permille=(200, 400, 600)), set()

    def watch(step):
        run = store.get(Run, "shown")
        if run is not None and step.stage == "walk" and step.done == 0:
            shown.add((bool(run.dense), len(run.sparse)))

    ran(asked, store, watch, run_key="shown")
    assert shown == {(True, 3)}


# Errors on the way.


@pytest.mark.parametrize("n_block", [0, N_BLOCKS - 1])
def test_a_cancelled_pass_resumes_with_the_same_records(n_block, streamed, store, together, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "EVERY_S", 0.0)
    at_blocks = []

    def stop(step):
        if step.stage == "walk":
            at_blocks.append(step.done)
        if at_blocks.count(n_block) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(streamed, store, stop)
    # Not begun again one by one.
    assert together == [len(streamed.methods) + 1]
    assert records(store, ran(streamed, store)) == fresh_records(streamed, tmp_path / "resident")


def test_an_error_of_one_model_is_left_to_its_own_turn(streamed, store, tmp_path, monkeypatch):
    sparse_model, made, steps = sparse_models.sparse_model, [], []

    def breaks(*asked):
        made.append(asked)
        if len(made) == 2:
            raise ModelError("Once.")
        return sparse_model(*asked)

    expected = fresh_records(streamed, tmp_path / "resident")
    monkeypatch.setattr(sparse_models, "sparse_model", breaks)
    assert records(store, ran(streamed, store, steps.append)) == expected
    assert not {"walk"} & {step.stage for step in steps}


def test_statistics_that_are_lost_on_the_way_are_collected_again(streamed, store, tmp_path, monkeypatch):
    expected, lost, get = fresh_records(streamed, tmp_path / "resident"), [], Store.get_artefact

    def loses(self, key):
        if key.endswith("/1") and not lost and self is store and self.has_artefact(key):
            lost.append(key)
            return None
        return get(self, key)

    monkeypatch.setattr(Store, "get_artefact", loses)
    assert records(store, ran(streamed, store)) == expected
    assert lost


@pytest.mark.parametrize(
    ("late", "error", "n_together"), [(False, ModelError, [1, 1]), (True, CalibrationError, [MODELS_TOGETHER, 1, 1, 1])]
)
def test_a_broken_model_ends_the_run_when_those_before_it_have_records(
    late, error, n_together, streamed, store, together, monkeypatch
):
    sparse_model = sparse_models.sparse_model

    def breaks(run, method, permille):
        if permille == 400 and not late:
            raise ModelError("Its weights are no numbers.")
        made = sparse_model(run, method, permille)

        def broken(index):
            (made.narrowed[index].out_weight if index == 1 else torch.empty(0)).fill_(float("nan"))
            return made.narrowed[index]

        return replace(made, narrowed=LazySequence(N_BLOCKS, broken)) if permille == 400 else made

    monkeypatch.setattr(sparse_models, "sparse_model", breaks)
    asked = replace(streamed, methods=(method_named("wanda-channels"), method_named("wanda")))
    with pytest.raises(error, match=r"no numbers|NaN"):
        ran(replace(asked, sparsities_permille=(200, 400, 600)), store, run_key="broken")
    assert together == n_together
    kept = store.get(Run, "broken")
    assert kept.dense and len(kept.sparse) == 1 and not kept.finished


# Memory.


def stream_by_itself(monkeypatch):
    """As on a machine whose memory is too small: rebuilding a record's model asks for neither way."""
    monkeypatch.setattr(run_context, "memory_bytes", lambda: 1)


def of_each_way(both, monkeypatch, do):
    """What `do` gives of the resident run, and of the streamed one."""
    found = [do(*both["resident"])]
    stream_by_itself(monkeypatch)
    return [*found, do(*both["streamed"])]


def test_models_generate_the_same_after_a_prompt(both, monkeypatch):
    def generated(store, shelf, run):
        asked = ContinuationSettings(left=run.dense, right=run.sparse[0], others=run.sparse[2:4], prompt="the lamp")
        return continue_prompt(replace(asked, n_tokens=8), store, ModelPairCache(shelf))

    resident, streamed = of_each_way(both, monkeypatch, generated)
    assert streamed == resident and resident.left


def test_models_diverge_as_much_token_by_token(both, monkeypatch):
    def diverged(store, shelf, run):
        asked = DivergenceSettings(left=run.dense, right=run.sparse[0], text="the lamp and the boat")
        return measure_divergence(asked, store, ModelPairCache(shelf))

    resident, streamed = of_each_way(both, monkeypatch, diverged)
    assert streamed == resident


def exported(run, to, **changes):
    return ExportSettings(dense=run.dense, sparse=run.sparse[0], form="padded", to=str(to), **changes)


def test_an_export_has_the_same_weights_and_lets_go_of_every_file_it_has_written(both, tmp_path, monkeypatch):
    dropped, write = [], exporting.write_checkpoint

    def watched(folder, *rest):
        *given, on_shard = rest
        write(folder, *given, lambda: dropped.append(len(list(folder.glob("*.safetensors")))) or on_shard())

    def weights(store, shelf, run):
        dropped.clear()
        folder = tmp_path / store.folder.name
        assert export_model(exported(run, folder), store, shelf, ignore_steps).proof.holds
        return {name: own for file in folder.glob("*.safetensors") for name, own in load_file(file).items()}

    monkeypatch.setattr(exporting, "write_checkpoint", watched)
    monkeypatch.setattr(exporting, "STREAMED_SHARD_MB", 0)
    resident, streamed = of_each_way(both, monkeypatch, weights)
    assert resident.keys() == streamed.keys()
    assert all(torch.equal(streamed[name], own) for name, own in resident.items())
    assert dropped == list(range(1, len(dropped) + 1)) and len(dropped) > 3


def test_what_does_not_fit_into_memory_is_neither_rounded_on_export_nor_timed(both, tmp_path, monkeypatch):
    store, shelf, run = both["streamed"]
    stream_by_itself(monkeypatch)
    with pytest.raises(ExportError, match="does not fit into the memory"):
        export_model(exported(run, tmp_path / "rounded", weights="bfloat16"), store, shelf, ignore_steps)
    assert not (tmp_path / "rounded").exists()
    with pytest.raises(JobError, match="what would be timed is its disk"):
        time_models(TimingSettings(dense=run.dense, sparse=run.sparse[0]), store, ModelPairCache(ModelShelf()))


def test_parts_that_are_kept_together_are_let_go_of_one_by_one(streamed, store, monkeypatch):
    """They were put aside, and packing reads them: all of a model's would be in memory at once."""
    # All of them, late.
    is_due = property(lambda kept: sum("/chosen/" in key for key in kept._pending) == N_BLOCKS)
    monkeypatch.setattr(stores.StageCheckpoint, "is_due", is_due)
    calls, pack, drop = [], sparse_models._pack_narrowed, residency.Streamed.drop
    monkeypatch.setattr(sparse_models, "_pack_narrowed", lambda part: calls.append("pack") or pack(part))
    monkeypatch.setattr(residency.Streamed, "drop", lambda self: calls.append("drop") or drop(self))
    ran(replace(streamed, methods=(narrow("best"),)), store)
    assert [after for now, after in pairwise(calls) if now == "pack"] == ["drop"] * N_BLOCKS


@pytest.mark.parametrize(("way", "n_models"), [("resident", 1), ("streamed", 0)])
@pytest.mark.parametrize("memory", [2**40, 2**20])
def test_weights_are_widened_once_where_they_are_resident_and_memory_is_left(
    way, n_models, memory, settings, store, monkeypatch
):
    rooms = []
    monkeypatch.setattr(run_context, "widen_once", lambda _, room: rooms.append(room))
    monkeypatch.setattr(run_context, "memory_bytes", lambda: memory)
    ran(replace(settings, sparsities_permille=(200,), residency=way), store)
    assert len(rooms) == n_models
    assert all((room == WIDE_BYTES) == (memory == 2**40) and (room <= 0) == (memory == 2**20) for room in rooms)


def test_the_memory_of_the_machine_decides_by_default(settings, store, monkeypatch):
    shelf, said, one = ModelShelf(), [], replace(settings, sparsities_permille=(200,))
    pipeline.run(one, store, shelf=shelf)
    assert not shelf._kept.residency.streamed
    stream_by_itself(monkeypatch)
    again = replace(one, evaluation=replace(one.evaluation, n_passages=5))
    pipeline.run(again, store, lambda step: said.append(step.message), shelf)
    assert shelf._kept.residency.streamed
    assert f"Reading {one.model} block by block" in said
