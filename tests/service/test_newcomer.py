"""Somebody who has run nothing yet is told what a run will take, for every model whose config is known."""

import json
from dataclasses import replace

import pytest
from huggingface_hub import constants

from sparsedash.catalog.model_shape import CONFIGS
from sparsedash.catalog.presets import METHODS
from sparsedash.catalog.published_results import PUBLISHED_MODELS
from sparsedash.schema.settings import BUILTIN_MODEL, EvaluationSettings, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.service.time_forecast import Speeds

SIZES = {"hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16, "vocab_size": 32_000}


@pytest.fixture
def backend(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    backend = Backend(tmp_path / "data")
    monkeypatch.setattr(backend._speed, "known", lambda: Speeds(float32=1e11, bfloat16=2e11))
    yield backend
    backend.close()


def assert_all_is_known(backend, model, method=METHODS[0]):
    asked = RunSettings(model=model, methods=(method.settings,), evaluation=EvaluationSettings(n_passages=100))
    before = backend.preflight(asked)
    assert before.duration.unknown == ()
    assert {"loading", "answering", "pruning"} <= {name for name, _ in before.duration.parts}
    assert before.duration.total_s == pytest.approx(sum(seconds for _, seconds in before.duration.parts))
    assert before.memory.least.n_bytes > 0
    assert before.disk.takes.stays_bytes > 0
    assert before.disk.free_bytes > 0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_of_the_built_in_model_by_every_method(method, backend):
    assert_all_is_known(backend, BUILTIN_MODEL, method)


@pytest.mark.parametrize("model", PUBLISHED_MODELS, ids=lambda model: model.name)
def test_of_a_model_whose_config_ships(model, backend):
    assert_all_is_known(backend, model.reference)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi", "qwen3"])
def test_of_a_folder_of_any_family(family, backend, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SIZES | {"model_type": family, "intermediate_size": 4096}))
    assert_all_is_known(backend, str(tmp_path))


def test_of_a_hub_model_of_which_only_the_config_was_fetched(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--owner--model"
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (folder / "snapshots" / ("a" * 40) / "config.json").write_text((CONFIGS / "llama-7b.json").read_text())
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    assert_all_is_known(backend, "owner/model")


def test_what_is_larger_than_memory_is_known_as_well(backend):
    asked = RunSettings(model=PUBLISHED_MODELS[0].reference, dtype="bfloat16", residency="streamed")
    resident = backend.preflight(replace(asked, residency="resident"))
    before = backend.preflight(asked)
    assert before.memory.least.n_bytes < resident.memory.least.n_bytes
    # A copy in the type of the run.
    assert before.disk.takes.stays_bytes > resident.disk.takes.stays_bytes
