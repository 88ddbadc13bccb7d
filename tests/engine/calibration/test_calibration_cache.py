"""What a calibration leaves: sensitivities where channels are dead or text is long, and what the store lost."""

import pytest
import torch

from sparsedash.engine.calibration.calibration_cache import Calibration
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.store_keys import CalibrationKeys
from tests.engine.tiny import tiny_loaded

KEYS = CalibrationKeys(statistics="s", inputs="i", gradients="g")


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
