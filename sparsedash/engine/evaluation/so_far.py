"""The answers that an evaluation has so far, kept now and then: one that is broken off goes on after them."""

import time
from collections.abc import Mapping, Sequence

import msgspec

from sparsedash.schema.errors import StoreError
from sparsedash.schema.records import Outcome
from sparsedash.storage.halfway import Halfway


class SoFar:
    """Answers by the positions of their passages. seconds: that an earlier attempt has spent on those that it kept.

    halfway, key: where they are kept; None: nowhere. n_together: models that answer at the same time, of whose seconds
    each has its share.
    """

    def __init__(self, halfway: Halfway | None = None, key: str = "", n_together: int = 1) -> None:
        self._halfway, self._key, self._n_together = halfway, key, n_together
        self._answers: dict[int, Outcome] = {}
        self.seconds = 0.0
        if halfway is not None and (known := halfway.get(key, _unpacked)) is not None:
            self.seconds, self._answers = known
        self._started = time.perf_counter()

    def known(self, rows: Sequence[int]) -> dict[int, Outcome]:
        """The answers of an earlier attempt to just these passages; none where one of them is missing.

        Whole batches only: what is computed in other company differs in the last digits.
        """
        found = {row: self._answers[row] for row in rows if row in self._answers}
        return found if len(found) == len(rows) else {}

    def add(self, answers: Mapping[int, Outcome]) -> None:
        """Put these to the others, to be kept with them."""
        self._answers |= answers
        if self._halfway is not None:
            self._halfway.add(self._key, self._packed)

    def keep(self) -> None:
        """Keep all that was added, if it is time to: also what other models have answered in the meantime."""
        if self._halfway is not None:
            self._halfway.keep_added()

    def _packed(self) -> bytes:
        seconds = self.seconds + (time.perf_counter() - self._started) / self._n_together
        return msgspec.json.encode((seconds, list(self._answers.items())))


def _unpacked(data: bytes) -> tuple[float, dict[int, Outcome]]:
    try:
        seconds, answers = msgspec.json.decode(data, type=tuple[float, list[tuple[int, Outcome]]])
    except msgspec.DecodeError as error:
        raise StoreError(f"Stored answers cannot be read: {error}.", "Start the run again.") from error
    return seconds, dict(answers)
