"""Checkpoints of long stages, so that a killed job resumes in the middle of one."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from sparsedash.schema.errors import CalibrationError, StoreError
from sparsedash.schema.records import ArtefactKind, about_artefact
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

CHECKPOINT_INTERVAL_S = 20.0
"""Seconds of work that a killed job may lose. A shorter stage leaves no checkpoint."""


class StageCheckpoint:
    """Finished parts of a long stage, kept now and then, so that a killed job resumes there.

    They are artefacts, as far as there is room that nothing else takes. model_identity: of the
    model at work.
    """

    def __init__(
        self,
        store: Store,
        model_identity: str,
        clock: Callable[[], float] = time.monotonic,
        kind: ArtefactKind = "unfinished",
    ) -> None:
        self._store = store
        self._clock = clock
        self._about = about_artefact(kind, model_identity)
        self._kept_at = clock()
        self._pending: dict[str, Callable[[], bytes]] = {}
        self._stored: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether the interval since the last write is over."""
        return self._clock() - self._kept_at >= CHECKPOINT_INTERVAL_S

    def get(self, key: str, unpack: Callable[[bytes], T]) -> T | None:
        """A part of an earlier attempt, or None; one that `unpack` refuses is dropped."""
        data = self._store.get_artefact(key)
        if data is None:
            return None
        try:
            part = unpack(data)
        except (CalibrationError, StoreError) as error:
            log.warning("Dropped a checkpoint that cannot be read, %s: %s", key, error)
            self._store.drop_entry("artefacts", key)
            return None
        self._stored.add(key)
        return part

    def keep(self, parts: Mapping[str, Callable[[], bytes]]) -> bool:
        """Keep parts by their keys, with all earlier ones, once they are due and if there is room.

        parts: functions that give the bytes, called then. Returns whether all were kept.
        """
        self._pending.update(parts)
        if not self.is_due:
            return False
        had_room = True
        for name, packed in self._pending.items():
            data = packed()
            if len(data) <= self._store.artefact_left:
                self._store.put_artefact(name, data, self._about)
                self._stored.add(name)
            else:
                had_room = False
        self._pending.clear()
        self._kept_at = self._clock()
        return had_room

    def get_or_make(
        self,
        key: str,
        make: Callable[[], T],
        pack: Callable[[T], bytes],
        unpack: Callable[[bytes], T],
    ) -> T:
        """The part of an earlier attempt, or else a new one, kept as `keep` does."""
        known = self.get(key, unpack)
        if known is not None:
            return known
        part = make()
        self.keep({key: lambda: pack(part)})
        return part

    def numbered(
        self, key: str, pack: Callable[[T], bytes], unpack: Callable[[bytes], T]
    ) -> Callable[[int, Callable[[], T]], T]:
        """`get_or_make` for parts that differ by their numbers alone."""
        return lambda number, make: self.get_or_make(
            f"{key}/{number}", make, pack, unpack
        )

    def discard_pending(self) -> None:
        """Forget the parts that are not written yet."""
        self._pending.clear()

    def done(self) -> None:
        """Drop the parts: the result of the stage is stored elsewhere."""
        self._pending.clear()
        for key in self._stored:
            self._store.drop_entry("artefacts", key)
        self._stored.clear()
        self._kept_at = self._clock()
