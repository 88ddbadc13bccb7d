"""What a calibration leaves: sensitivities where channels are dead or text is long, and what the store lost."""

from statistics import median

import pytest
import torch

from sparsedash.catalog.resources import SENSITIVITY_BATCH_TOKENS, SENSITIVITY_TOKENS
from sparsedash.engine.calibration import calibration_cache
from sparsedash.engine.calibration.calibration_cache import Calibration
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.store_keys import CalibrationKeys
from tests.engine.tiny import tiny_loaded

KEYS = CalibrationKeys(statistics="s", inputs="i", sensitivity="m", gradients="g", output_gradients="o")


@pytest.fixture
def loaded():
    """A tiny OPT, which has a ReLU; a third of the second block's channels never fire."""
    made = tiny_loaded("opt")
    (inner,) = made.mlps[1].inner
    inner.bias[: made.mlps[1].width // 3] = -1e4
    return made


def kept(loaded, store, texts):
    given = {"load": lambda: loaded, "read": lambda: texts, "on_step": ignore_steps}
    found = Calibration(store=store, keys=KEYS, **given, token_weights="equal", is_read=True)
    found.reach(len(loaded.blocks) - 1)
    return found


def texts(n=40, length=16):
    drawn = torch.randint(1, 400, (n, length), generator=torch.Generator().manual_seed(0))
    return [ids.tolist() for ids in drawn]


def test_a_block_with_many_dead_channels_still_has_a_sensitivity(loaded, store):
    """Without its dead channels nothing would be missing, and a loss of nothing tells nothing."""
    own = kept(loaded, store, texts())
    dead = own.data.statistics(1).second_moment.diagonal() == 0
    assert dead.float().mean() > 0.3
    found = own.data.sensitivities()
    assert min(found) > 0
    assert max(found) < 100 * min(found)


def test_a_block_that_loses_nothing_in_the_little_text_counts_as_the_others(loaded, store, monkeypatch):
    own = kept(loaded, store, texts())
    usual = own.data.sensitivities()
    store.drop_entry("artefacts", own.keys.sensitivity)
    losses = calibration_cache.sensitivities

    def none_of_the_last(*asked):
        return [*losses(*asked)[:2], 0.0]

    monkeypatch.setattr(calibration_cache, "sensitivities", none_of_the_last)
    found = own.data.sensitivities()
    assert found[:2] == usual[:2]
    assert found[2] == median(usual[:2])


def test_long_sequences_are_cut_so_that_many_predictions_are_judged(loaded, store, monkeypatch):
    monkeypatch.setattr(loaded.model.config, "max_position_embeddings", 2048)
    own = kept(loaded, store, texts())
    own.read = lambda: [[5] * 2000] * 20
    asked = []
    monkeypatch.setattr(calibration_cache, "sensitivities", lambda model, few, *_: asked.extend(few) or [1.0] * 3)
    own.data.sensitivities()
    assert {len(ids) for ids in asked} == {SENSITIVITY_BATCH_TOKENS}
    assert sum(map(len, asked)) == SENSITIVITY_TOKENS
