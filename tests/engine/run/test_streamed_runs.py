"""A streamed run gives what a resident one gives: every preset, the search, continuations, and exports."""

from dataclasses import replace
from itertools import pairwise

import pytest

from sparsedash.catalog.engine_limits import WIDE_BYTES
from sparsedash.catalog.presets import METHODS
from sparsedash.engine.comparison.continuation import continue_prompt
from sparsedash.engine.comparison.divergence import measure_divergence
from sparsedash.engine.comparison.model_pair import ModelPairCache
from sparsedash.engine.comparison.timing import time_models
from sparsedash.engine.export import export as exporting
from sparsedash.engine.export.export import export_model
from sparsedash.engine.models import residency
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline, run_context, sparse_models
from sparsedash.schema.errors import ExportError, JobError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings, TimingSettings
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage import store as halfway
from sparsedash.storage.store import Store


@pytest.fixture(scope="module")
def settings(model_folder, passage_file):
    return RunSettings(
        model=str(model_folder),
        methods=tuple(replace(preset.settings, width_multiple=8) for preset in METHODS),
        sparsities_permille=(200, 400),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}", n_samples=40, length=32),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=12),
    )


@pytest.fixture(scope="module")
def both(settings, tmp_path_factory):
    """The store, the shelf and the run of either way, resident first."""
    made = {}
    for way in ("resident", "streamed"):
        store, shelf = Store(tmp_path_factory.mktemp(way)), ModelShelf()
        made[way] = store, shelf, pipeline.run(replace(settings, residency=way), store, shelf=shelf)
    yield made
    for store, *_ in made.values():
        store.close()


def records(made):
    store, _, run = made
    return [store.get(Record, key) for key in (run.dense, *run.sparse)]


def test_both_ways_have_the_same_keys(both):
    resident, streamed = (run for _, _, run in both.values())
    assert streamed.key == resident.key
    assert streamed.dense == resident.dense
    assert streamed.sparse == resident.sparse


def test_every_preset_gives_the_same_widths_errors_and_answers(both):
    for resident, streamed in zip(*map(records, both.values()), strict=True):
        assert streamed.pruned == resident.pruned
        assert streamed.outcomes == resident.outcomes


def streamed_by_itself(monkeypatch):
    """As on a machine whose memory is too small: remaking a record's model asks for neither way."""
    monkeypatch.setattr(run_context, "memory_bytes", lambda: 1)


def test_models_write_the_same_after_a_prompt(both, monkeypatch):
    written = []
    for store, shelf, run in both.values():
        if written:
            streamed_by_itself(monkeypatch)
        asked = ContinuationSettings(left=run.dense, right=run.sparse[0], others=run.sparse[2:4], prompt="the lamp")
        written.append(continue_prompt(replace(asked, n_tokens=8), store, ModelPairCache(shelf)))
    assert written[0] == written[1]
    assert written[0].left


def test_models_diverge_as_much_token_by_token(both, monkeypatch):
    found = []
    for store, shelf, run in both.values():
        if found:
            streamed_by_itself(monkeypatch)
        asked = DivergenceSettings(left=run.dense, right=run.sparse[0], text="the lamp and the boat")
        found.append(measure_divergence(asked, store, ModelPairCache(shelf)))
    assert found[0] == found[1]


def test_an_export_holds_the_same_weights_and_is_proven(both, tmp_path, monkeypatch):
    hashes = []
    for way, (store, shelf, run) in both.items():
        if way == "streamed":
            streamed_by_itself(monkeypatch)
        asked = ExportSettings(dense=run.dense, sparse=run.sparse[0], form="padded", to=str(tmp_path / way))
        found = export_model(asked, store, shelf, ignore_steps)
        assert found.proof.holds
        hashes.append(found.files["model.safetensors"])
    assert hashes[0] == hashes[1]


def test_parts_that_are_kept_together_are_let_go_of_one_by_one(settings, tmp_path, monkeypatch):
    """They were put aside, and packing reads them: all of a model's would be in memory at once."""
    # All of them, late.
    monkeypatch.setattr(
        halfway.StageCheckpoint, "is_due", property(lambda kept: sum("/chosen/" in k for k in kept._pending) == 3)
    )
    told = []
    pack, drop = sparse_models._pack_narrowed, residency.Streamed.drop
    monkeypatch.setattr(sparse_models, "_pack_narrowed", lambda part: told.append("pack") or pack(part))
    monkeypatch.setattr(residency.Streamed, "drop", lambda self: told.append("drop") or drop(self))
    one = replace(settings, methods=settings.methods[:1], sparsities_permille=(400,), residency="streamed")
    store = Store(tmp_path / "data")
    pipeline.run(one, store, ignore_steps, ModelShelf())
    store.close()
    after = [then for now, then in pairwise(told) if now == "pack"]
    assert after == ["drop"] * 3


def test_a_streamed_export_lets_go_of_every_file_that_it_has_written(both, tmp_path, monkeypatch):
    store, shelf, run = both["streamed"]
    streamed_by_itself(monkeypatch)
    monkeypatch.setattr(exporting, "STREAMED_SHARD_MB", 0)
    dropped, write = [], exporting.write_checkpoint

    def watched(folder, *rest):
        *given, on_shard = rest
        seen = lambda: dropped.append(len(list(folder.glob("*.safetensors")))) or on_shard()  # noqa: E731
        write(folder, *given, seen)

    monkeypatch.setattr(exporting, "write_checkpoint", watched)
    asked = ExportSettings(dense=run.dense, sparse=run.sparse[0], form="padded", to=str(tmp_path / "shards"))
    assert export_model(asked, store, shelf, ignore_steps).proof.holds
    assert dropped == list(range(1, len(dropped) + 1))
    assert len(dropped) > 3


def test_what_would_be_rounded_on_export_is_refused_in_words(both, tmp_path, monkeypatch):
    store, shelf, run = both["streamed"]
    streamed_by_itself(monkeypatch)
    asked = ExportSettings(
        dense=run.dense, sparse=run.sparse[0], form="padded", weights="bfloat16", to=str(tmp_path / "rounded")
    )
    with pytest.raises(ExportError, match="does not fit into the memory"):
        export_model(asked, store, shelf, ignore_steps)
    assert not (tmp_path / "rounded").exists()


def test_the_disk_is_not_timed_in_place_of_the_model(both, monkeypatch):
    store, _, run = both["streamed"]
    streamed_by_itself(monkeypatch)
    with pytest.raises(JobError, match="what would be timed is its disk"):
        time_models(TimingSettings(dense=run.dense, sparse=run.sparse[0]), store, ModelPairCache(ModelShelf()))


@pytest.mark.parametrize(("residency", "n_models"), [("resident", 1), ("streamed", 0)])
@pytest.mark.parametrize("memory", [2**40, 2**20])
def test_only_of_a_model_in_memory_weights_are_widened_once_and_only_where_some_is_left(
    residency, n_models, memory, settings, tmp_path, monkeypatch
):
    rooms = []
    monkeypatch.setattr(run_context, "widen_once", lambda _, room: rooms.append(room))
    monkeypatch.setattr(run_context, "memory_bytes", lambda: memory)
    store = Store(tmp_path)
    pipeline.run(replace(settings, methods=settings.methods[:1], residency=residency), store)
    assert len(rooms) == n_models
    assert all((room == WIDE_BYTES) == (memory == 2**40) and (room <= 0) == (memory == 2**20) for room in rooms)
    store.close()


def test_the_memory_of_the_machine_decides_where_nothing_else_is_said(settings, tmp_path, monkeypatch):
    store, shelf = Store(tmp_path), ModelShelf()
    one = replace(settings, methods=settings.methods[:1], sparsities_permille=(200,))
    pipeline.run(one, store, shelf=shelf)
    assert not shelf._kept.residency.streamed
    streamed_by_itself(monkeypatch)
    said = []
    again = replace(one, evaluation=replace(one.evaluation, n_passages=5))
    pipeline.run(again, store, lambda step: said.append(step.message), shelf)
    assert shelf._kept.residency.streamed
    assert f"Reading {one.model} block by block" in said
    store.close()
