"""What a long stage has done so far, kept now and then, so that a job that was killed goes on there.

It is put among the artefacts, as far as there is room that nothing else takes: what is lost is computed again.
"""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sparsedash.schema.errors import CalibrationError, StoreError
from sparsedash.schema.hosting.upkeep import about_artefact
from sparsedash.storage.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERY_S = 20.0
"""Work that a kill may cost. A stage that takes less than this leaves nothing."""


class Halfway:
    """The parts of one stage. model_identity: of the model that it works on. clock: seconds that go by."""

    def __init__(self, store: Store, model_identity: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._about = about_artefact("unfinished", model_identity)
        self._kept_at = clock()
        self._pending: dict[str, Callable[[], bytes]] = {}
        self._left: set[str] = set()

    @property
    def is_due(self) -> bool:
        """Whether so much has been done since parts were kept that they are to be kept again."""
        return self._clock() - self._kept_at >= EVERY_S

    def get(self, key: str, unpack: Callable[[bytes], T]) -> T | None:
        """A part that an earlier attempt has kept; None where there is none (any more).

        unpack: raises CalibrationError or StoreError on what it does not know, as another version may have left it;
        that is dropped, and counts as none.
        """
        data = self._store.get_artefact(key)
        if data is None:
            return None
        try:
            part = unpack(data)
        except (CalibrationError, StoreError) as error:
            log.warning("Dropped an unfinished part that cannot be read, %s: %s", key, error)
            self._store.drop_entry("artefacts", key)
            return None
        self._left.add(key)
        return part

    def keep(self, key: str, part: Callable[[], bytes]) -> None:
        """Keep a part, with all that came before it, as soon as it is time to and if there is room.

        part: gives its bytes, and is only asked then.
        """
        self.add(key, part)
        self.keep_added()

    def add(self, key: str, part: Callable[[], bytes]) -> None:
        """Have a part kept with the next one; as `keep`, for several that belong together."""
        self._pending[key] = part

    def keep_added(self) -> None:
        """Keep all that came, as `keep` does."""
        if not self.is_due:
            return
        for name, packed in self._pending.items():
            data = packed()
            if len(data) <= self._store.artefact_left:
                self._store.put_artefact(name, data, self._about)
                self._left.add(name)
        self._pending.clear()
        self._kept_at = self._clock()

    def made(self, key: str, make: Callable[[], T], pack: Callable[[T], bytes], unpack: Callable[[bytes], T]) -> T:
        """A part as an earlier attempt has kept it, or as it is made now, which is kept as `keep` does."""
        known = self.get(key, unpack)
        if known is not None:
            return known
        part = make()
        self.keep(key, lambda: pack(part))
        return part

    def numbered(
        self, key: str, pack: Callable[[T], bytes], unpack: Callable[[bytes], T]
    ) -> Callable[[int, Callable[[], T]], T]:
        """`made` for parts that are told apart by their numbers alone."""
        return lambda number, make: self.made(f"{key}/{number}", make, pack, unpack)

    def done(self) -> None:
        """The stage is whole, and its result is kept elsewhere: let the parts go."""
        self._pending.clear()
        for key in self._left:
            self._store.drop_entry("artefacts", key)
        self._left.clear()
        self._kept_at = self._clock()
