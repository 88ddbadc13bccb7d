"""What is known of a model as soon as it is named: its family and its sizes. Nothing is loaded, and nobody is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsedash.catalog.dimensions import Dimensions, dimensions
from sparsedash.catalog.memory import dimensions_of
from sparsedash.schema import notes
from sparsedash.schema.model_shape import ModelShape, shape_from_plain
from sparsedash.service.local_models import config_problem
from sparsedash.storage.fingerprints import fingerprint
from sparsedash.storage.model_configs import model_config
from sparsedash.storage.store import Store

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
