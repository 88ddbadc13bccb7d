"""What is known of a model as soon as it is named, without loading it or asking anybody."""

import json

import pytest

from sparsedash.catalog.model_sizes import CONFIGS, shipped_shape
from sparsedash.schema import store_keys
from sparsedash.schema.errors import ModelError
from sparsedash.service import model_lookup
from sparsedash.service.model_lookup import (
    NamedModel,
    fetch_config,
    inspect_config,
    named_model,
)
from tests.catalog.test_model_sizes import SHAPE
from tests.engine.hub_client import environment
from tests.engine.hub_stand_in import Hub


def folder_with(tmp_path, **changes):
    config = json.loads((CONFIGS / "llama-7b.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_a_model_is_known_by_its_config_by_the_one_that_ships_or_by_what_was_noted_when_it_was_loaded(
    store, tmp_path
):
    folder = folder_with(tmp_path)
    assert named_model(folder, store) == NamedModel(family="llama", shape=None)
    inspect_config(folder, store)
    model = named_model(folder, store)
    assert (model.family, model.shape, model.problem) == (
        "llama",
        shipped_shape("llama-7b"),
        "",
    )
    assert named_model("facebook/opt-1.3b", store).shape == shipped_shape("opt-1.3b")
    assert named_model("owner/model", store) is None
    store.remember(store_keys.model_identity_note("owner/model", ""), "id")
    store.remember(store_keys.model_shape_note("id"), SHAPE.plain())
    assert named_model("owner/model", store).shape == SHAPE
    without_mlp = folder_with(tmp_path, model_type="mamba")
    inspect_config(without_mlp, store)
    # Its whole layers can go.
    assert named_model(without_mlp, store).problem == ""


@pytest.mark.parametrize(
    "changes", [{"num_attention_heads": 0}, {"hidden_size": None}, {"hidden_size": "x"}]
)
def test_a_config_that_describes_no_model_counts_nothing(changes, store, tmp_path):
    assert (
        named_model(folder_with(tmp_path, torch_dtype=None, **changes), store).shape
        is None
    )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the hub, which has one model, and of that more than its config."""
    model = Hub()
    folder = tmp_path / "of the hub"
    folder.mkdir()
    (folder / "config.json").write_text((CONFIGS / "llama-7b.json").read_text())
    (folder / "model.safetensors").write_bytes(b"weights")
    model.add("models", "owner/never-seen", folder)
    for name, value in environment(model.url, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub")
    )
    yield model
    model.stop()


def test_a_model_that_was_never_fetched_is_known_by_its_config_alone_and_a_refusal_is_told(
    hub, store
):
    assert named_model("owner/never-seen", store) is None
    fetch_config("owner/never-seen", with_token=True)
    inspect_config("owner/never-seen", store)
    assert named_model("owner/never-seen", store).shape == shipped_shape("llama-7b")
    assert not any("safetensors" in request for request in hub.asked)
    with pytest.raises(
        ModelError, match="There is no owner/missing on the hub"
    ) as refused:
        fetch_config("owner/missing", with_token=False)
    assert "Check the spelling" in refused.value.advice
    assert named_model("owner/missing", store) is None


@pytest.mark.parametrize(
    ("does", "why"),
    [
        ("exit 0", "could not be looked up"),
        ("echo {}; exit 1", "could not be looked up"),
        ("exec yes", "did not answer"),
    ],
)
def test_a_process_that_says_nothing_of_use_or_fails_after_its_last_word_is_told(
    does, why, monkeypatch, tmp_path
):
    program = tmp_path / "does"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o700)
    monkeypatch.setattr(model_lookup.sys, "executable", str(program))
    monkeypatch.setattr(model_lookup, "_TIMEOUT_S", 0.5)
    with pytest.raises(ModelError, match=why):
        fetch_config("owner/model", with_token=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000"),
        (
            {"model_type": "stranger", "auto_map": {"AutoConfig": "trap.Trap"}},
            "stranger",
        ),
        ({"num_attention_heads": 3}, "not a multiple"),
    ],
    ids=["depth", "remote code", "sizes"],
)
def test_a_config_that_lies_is_refused_and_runs_nothing(
    changes, reason, store, tmp_path
):
    marker = tmp_path / "was here"
    (tmp_path / "trap.py").write_text(
        f"open({str(marker)!r}, 'w').close()\nclass Trap: pass\n"
    )
    folder = folder_with(tmp_path, **changes)
    inspect_config(folder, store)
    named = named_model(folder, store)
    assert reason in named.problem and named.shape is None
    assert not marker.exists()
