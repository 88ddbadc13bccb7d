"""The answers that an evaluation has so far, kept now and then: one that is broken off goes on after them."""

import time
from collections.abc import Mapping, Sequence

import msgspec

from sparsedash.schema.errors import StoreError
from sparsedash.schema.records import Outcome
from sparsedash.storage.halfway import Halfway


class SoFar:
    """Answers by the positions of their passages, and the seconds that were spent on them.

    halfway, key: where they are kept; None: nowhere.
    """

    def __init__(self, halfway: Halfway | None = None, key: str = "") -> None:
        self._halfway, self._key = halfway, key
        self._answers: dict[int, Outcome] = {}
        self._before = 0.0
        if halfway is not None and (known := halfway.get(key, _unpacked)) is not None:
            self._before, self._answers = known
        self.begin(1)

    def begin(self, n_together: int) -> None:
        """From now on it is answered, by so many models at the same time, of whose seconds each has its share."""
        self._started, self._n_together = time.perf_counter(), n_together

    def leave_out(self, seconds: float) -> None:
        """These were spent on something else since it began."""
        self._started += seconds

    @property
    def seconds(self) -> float:
        """Spent so far, by an earlier attempt as well on what it kept."""
        return self._before + (time.perf_counter() - self._started) / self._n_together

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
        return msgspec.json.encode((self.seconds, list(self._answers.items())))


def _unpacked(data: bytes) -> tuple[float, dict[int, Outcome]]:
    try:
        seconds, answers = msgspec.json.decode(data, type=tuple[float, list[tuple[int, Outcome]]])
    except msgspec.DecodeError as error:
        raise StoreError(f"Stored answers cannot be read: {error}.", "Start the run again.") from error
    return seconds, dict(answers)
