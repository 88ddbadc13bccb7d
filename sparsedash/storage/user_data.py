"""What visitors leave beside the results: the prompts they tried, and their choices in blind comparisons."""

from contextlib import suppress

from sparsedash.schema.errors import NewerError
from sparsedash.schema.hashing import digest
from sparsedash.schema.pair_records import Choices, Prompts
from sparsedash.schema.pair_settings import ContinuationSettings
from sparsedash.storage.store import Store

MOST_PROMPTS = 50


class UserData:
    """The prompts and choices of one data folder, shared by all who use it. Every method may raise StoreError.

    What another version wrote in a form unknown here counts as nothing, and is not replaced.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def prompts(self, left: str, right: str) -> tuple[ContinuationSettings, ...]:
        """The prompts tried with these two records on these sides, newest first."""
        with suppress(NewerError):
            kept = self._store.get(Prompts, digest([left, right]))
            return kept.asked if kept else ()
        return ()

    def keep_prompt(self, asked: ContinuationSettings) -> None:
        """Put the prompt at the head of its list; the oldest goes where there are too many."""
        self._relist(asked, (asked,))

    def drop_prompt(self, asked: ContinuationSettings) -> None:
        """Take the prompt off its list; what was written after it stays in the store."""
        self._relist(asked, ())

    def choices(self, one: str, other: str) -> dict[str, str]:
        """Which record was chosen for each passage or prompt, see pair_records.Choices; the sides do not matter."""
        with suppress(NewerError):
            kept = self._store.get(Choices, _pair(one, other))
            return kept.better if kept else {}
        return {}

    def choose(self, one: str, other: str, subject: str, better: str | None) -> None:
        """Record a choice in place of an earlier one; None takes it back."""

        def changed(kept: Choices | None) -> Choices:
            found = {name: key for name, key in (kept.better if kept else {}).items() if name != subject}
            return Choices(key=key, better=found if better is None else {**found, subject: better})

        key = _pair(one, other)
        self._store.change(Choices, key, changed)

    def forget_choices(self, one: str, other: str) -> None:
        """Delete all choices between these two records."""
        key = _pair(one, other)
        self._store.put(key, Choices(key=key, better={}))

    def _relist(self, asked: ContinuationSettings, head: tuple[ContinuationSettings, ...]) -> None:
        def changed(kept: Prompts | None) -> Prompts:
            rest = (other for other in (kept.asked if kept else ()) if other.key() != asked.key())
            return Prompts(key=key, asked=(*head, *rest)[:MOST_PROMPTS])

        key = digest([asked.left, asked.right])
        self._store.change(Prompts, key, changed)


def _pair(one: str, other: str) -> str:
    return digest(sorted((one, other)))
