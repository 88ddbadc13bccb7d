"""The answers that an evaluation has so far, kept now and then: one that is broken off goes on after them."""

import time
from collections.abc import Mapping, Sequence

import msgspec

from sparsedash.schema.errors import StoreError
from sparsedash.schema.records import Outcome
from sparsedash.storage.halfway import Halfway


class SoFar:
    """Answers by the positions of their passages. seconds: that an earlier attempt has spent on those that it kept.

    halfway, key: where they are kept; None: nowhere.
    """

    def __init__(self, halfway: Halfway | None = None, key: str = "") -> None:
        self._halfway, self._key = halfway, key
        self._answers: dict[int, Outcome] = {}
        self.seconds = 0.0
        if halfway is not None and (known := halfway.get(key, _unpacked)) is not None:
            self.seconds, self._answers = known
        self._started = time.perf_counter() - self.seconds

    def known(self, rows: Sequence[int]) -> dict[int, Outcome]:
        """The answers of an earlier attempt to just these passages; none where one of them is missing.

        Whole batches only: what is computed in other company differs in the last digits.
        """
        found = {row: self._answers[row] for row in rows if row in self._answers}
        return found if len(found) == len(rows) else {}

    def add(self, answers: Mapping[int, Outcome]) -> None:
        """Keep these as well, from time to time."""
        self._answers |= answers
        if self._halfway is not None:
            self._halfway.keep(self._key, self._packed)

    def _packed(self) -> bytes:
        return msgspec.json.encode((time.perf_counter() - self._started, list(self._answers.items())))


def _unpacked(data: bytes) -> tuple[float, dict[int, Outcome]]:
    try:
        seconds, answers = msgspec.json.decode(data, type=tuple[float, list[tuple[int, Outcome]]])
    except msgspec.DecodeError as error:
        raise StoreError(f"Stored answers cannot be read: {error}.", "Start the run again.") from error
    return seconds, dict(answers)
