"""What is known of a model as soon as it is named: its family and its sizes. Nothing is loaded.

Nobody is asked before a visitor says so: then the hub is, for the model's config alone.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sparsedash.catalog.dimensions import Dimensions, dimensions
from sparsedash.catalog.families import config_problem
from sparsedash.catalog.memory import dimensions_of
from sparsedash.schema import notes
from sparsedash.schema.errors import ModelError
from sparsedash.schema.model_shape import ModelShape, shape_from_plain
from sparsedash.storage.fingerprints import fingerprint
from sparsedash.storage.model_configs import model_config
from sparsedash.storage.store import Store

_FETCHING = "sparsedash.engine.models.hub"
_PATIENCE_S = 30.0

_MEMORY_BYTES = 4
"""Of one weight of a model that was measured after it was loaded; what it has on the hub nobody noted."""


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """family: its model_type; empty where only its sizes are known. counted: None for a family without arithmetic.

    problem: why it cannot be pruned, as far as its config says; empty where nothing speaks against it.
    """

    family: str
    counted: Dimensions | None
    problem: str = ""


def named_model(reference: str, store: Store) -> NamedModel | None:
    """What is known of it: from when it was loaded here before, from its config, or from the catalog; else None."""
    identity = store.recall(notes.model_identity(reference, fingerprint(reference)))
    shape = shape_from_plain(store.recall(notes.model_shape(identity)) or "") if identity else None
    if shape is not None:
        return NamedModel(family=shape.family, counted=_counted(shape))
    config = model_config(reference)
    if config is None:
        shipped = dimensions_of(reference)
        return None if shipped is None else NamedModel(family="", counted=shipped)
    problem = config_problem(config, reference)
    family = str(config.get("model_type", ""))[:40]
    return NamedModel(family=family, counted=None if problem else _by_config(config), problem=problem)


def fetch_config(reference: str, *, with_token: bool) -> None:
    """Have a hub model's config.json fetched, a few kilobytes, so that `named_model` knows it. Waits for it.

    with_token: whether the hub may be asked with the token of whoever runs this program. Raises ModelError.
    """
    command = [sys.executable, "-m", _FETCHING, *([] if with_token else ["--no-token"]), "--", reference]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)  # noqa: S603
        said = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, str])
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"The hub did not answer within {_PATIENCE_S:.0f} seconds.", "Try again later.") from error
    except (subprocess.CalledProcessError, OSError, IndexError, msgspec.MsgspecError) as error:
        raise ModelError(
            f"The config of {reference} could not be fetched.", "Start the run: its log says why."
        ) from error
    if said:
        raise ModelError(said.get("message", ""), said.get("advice", ""))


def _by_config(config: Mapping[str, Any]) -> Dimensions | None:
    """None where the family has no arithmetic, or the config leaves a size to its family's usual value."""
    try:
        return dimensions(config)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None


def _counted(shape: ModelShape) -> Dimensions:
    return Dimensions(
        hidden=shape.hidden,
        vocabulary=shape.n_head // max(1, shape.hidden),
        widths=shape.widths,
        per_channel=shape.per_channel,
        n_matmul=shape.n_matmul,
        n_parameters=shape.n_parameters,
        stored_bytes=_MEMORY_BYTES,
        kept_of_a_token=2 * len(shape.widths) * shape.keys,
    )
