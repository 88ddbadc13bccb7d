"""Notes of what was found out about models: their shapes, by identity and by config."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec

from sparsedash.schema import store_keys
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.plain_values import digest
from sparsedash.schema.store_keys import NoteName
from sparsedash.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class LookedUp:
    """What the look-up of a config found: a shape, or why such a model cannot be pruned."""

    shape: ModelShape | None = None
    problem: str = ""


def known_shape(store: Store, identity: str) -> ModelShape | None:
    """The shape of the model with this identity; None where it has not been loaded here."""
    with suppress(msgspec.MsgspecError):
        plain = store.recall(store_keys.model_shape_note(identity))
        return msgspec.json.decode(plain, type=ModelShape) if plain else None
    return None


def looked_up(store: Store, config: Mapping[str, Any]) -> LookedUp | None:
    """What was found of a model with this config.json; None where it was not looked up yet."""
    with suppress(msgspec.MsgspecError):
        plain = store.recall(_config_note(config))
        return msgspec.json.decode(plain, type=LookedUp) if plain else None
    return None


def note_look_up(store: Store, config: Mapping[str, Any], found: LookedUp) -> None:
    """Keep what the look-up of this config.json found."""
    store.remember(_config_note(config), msgspec.json.encode(found).decode())


def _config_note(config: Mapping[str, Any]) -> NoteName:
    # Another version of the library may know another type, or compute it otherwise.
    return store_keys.looked_up_note(digest(config), version("transformers"))
