"""What is known of a model as soon as it is named, without loading it or asking anybody."""

import json

import pytest

from sparsedash.catalog.dimensions import CONFIGS, shipped
from sparsedash.schema import notes
from sparsedash.schema.model_shape import ModelShape
from sparsedash.service.named_models import named_model
from sparsedash.storage.store import Store

SHAPE = ModelShape(
    family="phi3",
    hidden=32,
    widths=(96, 96),
    per_channel=96,
    bias_per_channel=0,
    n_matmul=40_000,
    n_head=6_400,
    n_parameters=41_000,
    attention=32,
    keys=32,
)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    yield store
    store.close()


def folder_with(tmp_path, **changes):
    config = json.loads((CONFIGS / "llama-7b.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def test_a_local_folder_by_its_config(store, tmp_path):
    found = named_model(folder_with(tmp_path), store)
    assert (found.family, found.counted, found.problem) == ("llama", shipped("llama-7b"), "")


def test_a_published_model_by_the_config_that_ships(store):
    assert named_model("facebook/opt-1.3b", store).counted == shipped("opt-1.3b")


def test_a_model_by_what_was_noted_when_it_was_loaded(store):
    store.remember(notes.model_identity("owner/model", ""), "id")
    store.remember(notes.model_shape("id"), SHAPE.plain())
    found = named_model("owner/model", store)
    assert (found.family, found.counted.widths, found.counted.vocabulary) == ("phi3", (96, 96), 200)


@pytest.mark.parametrize(
    "changes",
    [{"num_attention_heads": 0}, {"hidden_size": None}, {"hidden_size": "x"}, {"intermediate_size": -3}, {"dtype": 5}],
)
def test_a_config_that_describes_no_model_counts_nothing(changes, store, tmp_path):
    assert named_model(folder_with(tmp_path, torch_dtype=None, **changes), store).counted is None


def test_a_family_that_cannot_be_pruned_says_so(store, tmp_path):
    assert "'mamba' cannot be pruned yet" in named_model(folder_with(tmp_path, model_type="mamba"), store).problem


def test_of_a_model_that_is_not_here_nothing_is_known(store):
    assert named_model("owner/never-fetched", store) is None
