"""Notes of what was found out about models: their shapes, by identity and by config."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from sparsedash.schema import store_keys
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.plain_values import digest
from sparsedash.schema.store_keys import NoteName
from sparsedash.storage.derived_notes import note_derived, recalled
from sparsedash.storage.store import Store

_PROOF_VERSION = 2
"""Raised where a look-up finds more, or otherwise, of the same config."""


@dataclass(frozen=True, kw_only=True)
class LookedUp:
    """Result of looking up a config: a shape, or the reason such a model cannot be pruned."""

    shape: ModelShape | None = None
    problem: str = ""


def known_shape(store: Store, identity: str) -> ModelShape | None:
    """The shape of the model with this identity; None where it has not been loaded here."""
    return recalled(store, store_keys.model_shape_note(identity), ModelShape)


def looked_up(store: Store, config: Mapping[str, Any]) -> LookedUp | None:
    """Result of looking up this config.json; None if it was not looked up yet."""
    return recalled(store, _config_note(config), LookedUp)


def note_look_up(store: Store, config: Mapping[str, Any], found: LookedUp) -> None:
    """Keep what the look-up of this config.json found."""
    note_derived(store, _config_note(config), msgspec.to_builtins(found))


def _config_note(config: Mapping[str, Any]) -> NoteName:
    # Another version of the library may know another type, or compute it otherwise.
    return store_keys.looked_up_note(
        digest(config), f"{_transformers_version()}-{_PROOF_VERSION}"
    )


@cache
def _transformers_version() -> str:
    return version("transformers")
