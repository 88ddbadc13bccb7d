"""Where weights lie in files and no method looks back, a block is read once to calibrate, prune and ask there."""

import time
from dataclasses import replace

import pytest

from sparsedash.catalog.presets import METHODS, method_named
from sparsedash.engine.calibration.statistics import StatisticsCollector
from sparsedash.engine.models.residency import Streamed
from sparsedash.engine.pruning.allocation import ALLOCATIONS
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.saliency import SALIENCIES
from sparsedash.engine.run import sparse_models
from sparsedash.schema.errors import Cancelled, ModelError
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage import store as halfway
from sparsedash.storage.store import Store
from tests.engine.run.whole_runs import answers, ran

N_BLOCKS = 3
LOCAL = ("least-squares", "wanda-channels", "wanda", "sparsegpt")


@pytest.fixture
def settings(model_folder, passage_file):
    return RunSettings(
        model=str(model_folder),
        methods=tuple(map(method_named, LOCAL[:3])),
        sparsities_permille=(400,),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}", n_samples=60, length=64),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=12),
        residency="streamed",
    )


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


def in_memory(settings, tmp_path):
    """The records of the same run with its weights in memory, where one thing is done after another."""
    store = Store(tmp_path / "resident")
    found = answers(store, ran(replace(settings, residency="resident"), store))
    store.close()
    return found


@pytest.mark.parametrize("names", [LOCAL, ("random", "magnitude-2:4"), ("wanda-channels",)])
def test_the_records_are_those_of_one_thing_after_another(names, settings, store, tmp_path):
    asked = replace(settings, methods=tuple(map(method_named, names)), sparsities_permille=(200, 400))
    assert answers(store, ran(asked, store)) == in_memory(asked, tmp_path)


def until_answered(readings, settings, store):
    """What was read before the first passages were through all blocks."""
    found = []

    def watch(step):
        if step.stage == "evaluate" and step.done and not found:
            found.extend(readings)

    run = ran(settings, store, watch)
    return run, found


def test_a_block_is_read_once_for_all_of_it(settings, store, readings):
    channels = replace(settings, methods=settings.methods[:2], sparsities_permille=(200,))
    _, read = until_answered(readings, channels, store)
    # The first block is asked what a model keeps of a token before the walk begins there.
    assert read == list(range(N_BLOCKS))


def test_a_method_that_looks_back_is_done_with_before_anybody_answers(settings, store, readings):
    back = replace(settings, methods=(*settings.methods[:1], method_named("obs-sequential")))
    _, read = until_answered(readings, back, store)
    assert len(read) > 4 * N_BLOCKS


def test_what_looks_back():
    back = {method.name for method in METHODS if method.settings.looks_back}
    by_blocks = {"best", "flap", "obs-by-sensitivity", "least-squares-by-sensitivity"}
    assert back == by_blocks | {"obs-sequential", "retrain-free (published)"}
    # As the rows say that make it so.
    for each in (method.settings for method in METHODS):
        row = ALLOCATIONS[each.allocation], COMPENSATIONS[each.compensation], SALIENCIES[each.saliency]
        assert each.looks_back == (not row[0].alone or row[1].sequential or row[2].by_gradient)


def test_progress_is_told_of_the_walk_alone_until_passages_are_through(settings, store):
    steps = []
    ran(settings, store, steps.append)
    walk = [step for step in steps if step.stage == "walk"]
    begin = steps.index(walk[0])
    assert steps[begin : begin + len(walk)] == walk
    assert [step.done for step in walk] == sorted(step.done for step in walk)
    assert {step.done for step in walk} == set(range(N_BLOCKS)) and {step.total for step in walk} == {N_BLOCKS}
    assert {step.point for step in walk} == {2} and {step.message for step in walk} == {
        "calibrating, pruning and answering"
    }
    assert not {"calibrate", "prune"} & {step.stage for step in steps}
    assert not {"evaluate"} & {step.stage for step in steps[:begin]}
    assert steps[begin + len(walk)].stage == "evaluate"


def test_every_stage_has_its_own_seconds_and_answers_no_others(settings, store, monkeypatch):
    block = StatisticsCollector._block

    def slowly(self, walk, index):
        time.sleep(0.2)
        block(self, walk, index)

    monkeypatch.setattr(StatisticsCollector, "_block", slowly)
    run = ran(settings, store)
    assert run.seconds["calibrate"] >= 0.2 * N_BLOCKS and run.seconds["prune"] > 0
    answering = sum(store.get(Record, key).seconds for key in (run.dense, *run.sparse))
    assert answering <= run.seconds["evaluate"] <= run.finished_at - run.started_at - 0.2 * N_BLOCKS


def test_a_second_walk_does_not_calibrate_again(settings, store):
    steps = []
    ran(settings, store)
    run = ran(replace(settings, sparsities_permille=(100, 300)), store, steps.append)
    assert "calibration" in run.cached
    assert {step.message for step in steps if step.stage == "walk"} == {"pruning and answering"}


@pytest.mark.parametrize("n_block", range(N_BLOCKS))
def test_one_that_is_broken_off_goes_on_and_says_the_same(n_block, settings, store, tmp_path, monkeypatch):
    monkeypatch.setattr(halfway, "EVERY_S", 0.0)
    at_blocks = []

    def stop(step):
        if step.stage == "walk":
            at_blocks.append(step.done)
        if at_blocks.count(n_block) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        ran(settings, store, stop)
    assert answers(store, ran(settings, store)) == in_memory(settings, tmp_path)


def test_what_fails_on_the_way_is_left_to_its_own_turn(settings, store, tmp_path, monkeypatch):
    sparse_model, made = sparse_models.sparse_model, []

    def breaks(run, method, permille):
        made.append(method)
        if len(made) == 2:
            raise ModelError("Once.")
        return sparse_model(run, method, permille)

    expected = in_memory(settings, tmp_path)
    monkeypatch.setattr(sparse_models, "sparse_model", breaks)
    steps = []
    assert answers(store, ran(settings, store, steps.append)) == expected
    assert not {"walk"} & {step.stage for step in steps}


def test_statistics_that_are_lost_on_the_way_are_gathered_again(settings, store, tmp_path, monkeypatch):
    expected, lost = in_memory(settings, tmp_path), []
    get = Store.get_artefact

    def loses(self, key):
        if key.endswith("/1") and len(lost) < 1 and self is store and self.has_artefact(key):
            lost.append(key)
            return None
        return get(self, key)

    monkeypatch.setattr(Store, "get_artefact", loses)
    assert answers(store, ran(settings, store)) == expected
    assert lost
