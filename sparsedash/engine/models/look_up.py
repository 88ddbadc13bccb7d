"""Looks up one config in a process with limits: a stranger's file may describe anything.

    python -m sparsedash.engine.models.look_up CONFIG_JSON

Prints a LookedUp as JSON.
"""

import json
import sys
from pathlib import Path

import msgspec
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers.utils import logging

from sparsedash.engine.models.model_inspection import inspect_model, no_causal_type
from sparsedash.schema.errors import ModelError, first_line
from sparsedash.storage.shape_notes import LookedUp
from sparsedash.storage.trials import run_trial

_MAX_BYTES = 4 * 2**30
_MAX_SECONDS = 60


def _look_up(file: Path) -> str:
    try:
        plain = json.loads(file.read_bytes())
        # As `from_pretrained` reads a file: infinity is no number of JSON.
        plain = PretrainedConfig._decode_special_floats(plain)
        model_type = str(plain.get("model_type", ""))
        if model_type not in CONFIG_MAPPING:
            raise ModelError(
                f"The model cannot be pruned: {no_causal_type(model_type)}."
            )
        config = AutoConfig.for_model(**plain)
        looked_up = LookedUp(shape=inspect_model(config, "The model"))
    except ModelError as error:
        looked_up = LookedUp(problem=error.message)
    except Exception as error:  # noqa: BLE001 - a class of configs may fail by any error
        looked_up = LookedUp(
            problem=f"Its config could not be read: {first_line(error)}."
        )
    return msgspec.json.encode(looked_up).decode()


if __name__ == "__main__":
    logging.set_verbosity_error()
    run_trial(lambda: _look_up(Path(sys.argv[1])), _MAX_BYTES, _MAX_SECONDS)
