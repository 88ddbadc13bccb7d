"""Values that can be computed again, kept as notes of the store."""

import json
from contextlib import suppress
from typing import TypeVar

import msgspec

from sparsedash.schema.errors import StoreError
from sparsedash.schema.store_keys import NoteName
from sparsedash.storage.store import Store

T = TypeVar("T")


def note_derived(store: Store, note: NoteName, value: object) -> None:
    """Keep what can be computed again, unless the disk is full."""
    with suppress(StoreError):
        store.remember(note, json.dumps(value))


def recalled(store: Store, name: NoteName, kind: type[T]) -> T | None:
    """The value of this kind in a note; None where there is none or it cannot be read."""
    try:
        # json.loads, since losses can be infinite, which msgspec writes as null.
        return msgspec.convert(json.loads(store.recall(name) or ""), kind)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
