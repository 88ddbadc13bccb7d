"""What is put on record of a sparse model is measured before it is rounded to the type that it runs in."""

import pytest
import torch

from sparsedash.catalog.presets import method_named
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.engine.run.sparse_models import PrunedChannels
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.storage.store import Store


@pytest.fixture
def settings(model_folder, passage_file):
    return RunSettings(
        model=str(model_folder),
        dtype="bfloat16",
        methods=(method_named("least-squares"),),
        sparsities_permille=(400,),
        calibration=CalibrationSettings(corpus=f"file:{passage_file}", n_samples=60, length=64),
        evaluation=EvaluationSettings(corpus=f"file:{passage_file}", n_passages=12),
    )


def made(settings, store):
    run = pipeline.run(settings, store, lambda step: None, ModelShelf())
    record = store.get(Record, run.sparse[0])
    return record.pruned, record.outcomes


def test_rounding_changes_nothing_that_is_told(settings, store, tmp_path, monkeypatch):
    rounded, types = PrunedChannels.round_, []

    def watched(self, index):
        before = self.narrowed[index].out_weight.dtype
        rounded(self, index)
        types.append((before, self.narrowed[index].out_weight.dtype))

    monkeypatch.setattr(PrunedChannels, "round_", watched)
    found = made(settings, store)
    assert types == [(torch.float32, torch.bfloat16)] * 3
    monkeypatch.setattr(PrunedChannels, "round_", lambda *_: None)
    whole = Store(tmp_path / "whole")
    assert made(settings, whole) == found
    whole.close()
