"""What visitors leave beside the results: the prompts they tried, their choices in blind comparisons, and what they
called their runs.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from sparsedash.schema.errors import NewerError
from sparsedash.schema.hashing import digest
from sparsedash.schema.hosting.serving import LOCAL
from sparsedash.schema.pair_records import Choices, Continuation, Prompts, RunMark, RunMarks
from sparsedash.schema.pair_settings import ContinuationSettings
from sparsedash.schema.records import R
from sparsedash.storage.store import Store

MOST_PROMPTS = 50
LONGEST_NAME = 60
_MARKS = "runs"


class UserData:
    """The prompts, choices and marks of one owner in one data folder. Every method may raise StoreError.

    owner: empty: all who use the folder share them, as is right while nobody else is served. What another version wrote
    in a form unknown here counts as nothing, and is not replaced.
    """

    def __init__(self, store: Store, owner: str = LOCAL) -> None:
        self._store = store
        self._owner = owner
        self._marks = digest([_MARKS, owner]) if owner else _MARKS

    def prompts(self, left: str, right: str) -> tuple[ContinuationSettings, ...]:
        """The prompts tried with these two records on these sides, newest first."""
        with suppress(NewerError):
            kept = self._store.get(Prompts, self._prompts_key(left, right))
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
            kept = self._store.get(Choices, self._pair(one, other))
            return kept.better if kept else {}
        return {}

    def choose(self, one: str, other: str, subject: str, better: str | None) -> None:
        """Record a choice in place of an earlier one; None takes it back."""

        def changed(kept: Choices | None) -> Choices:
            found = {name: key for name, key in (kept.better if kept else {}).items() if name != subject}
            better_now = found if better is None else {**found, subject: better}
            return Choices(key=key, better=better_now, owner=self._owner)

        key = self._pair(one, other)
        self._store.change(Choices, key, changed)

    def forget_choices(self, one: str, other: str) -> None:
        """Delete all choices between these two records."""
        key = self._pair(one, other)
        self._store.put(key, Choices(key=key, better={}, owner=self._owner))

    def marks(self) -> Mapping[str, RunMark]:
        """The names and pins of runs, by the runs' keys; those that have neither are left out."""
        with suppress(NewerError):
            kept = self._store.get(RunMarks, self._marks)
            return kept.marks if kept else {}
        return {}

    def name_of(self, run: str) -> str:
        """What visitors called the run with this key; empty where nobody gave it a name."""
        return self.marks().get(run, RunMark()).name

    def name_run(self, run: str, name: str) -> None:
        """Call a run so from now on; nothing takes its name away. Spaces are made plain, the end of a long one goes."""
        # A half of a surrogate pair is text that no file can hold.
        plain = " ".join(name.encode(errors="replace").decode().split())[:LONGEST_NAME].rstrip()
        self._mark([run], lambda mark: replace(mark, name=plain))

    def pin_runs(self, runs: Iterable[str], pinned: bool) -> None:
        """Put these runs before the others, or back among them."""
        self._mark(runs, lambda mark: replace(mark, pinned=pinned))

    def forget_runs(self, runs: Iterable[str]) -> None:
        """Delete the names and pins of these runs, whoever gave them."""
        gone = list(runs)
        for kept in self._all(RunMarks):
            if kept.marks.keys() & set(gone):
                UserData(self._store, kept.owner)._mark(gone, lambda mark: RunMark())

    def forget_records(self, gone: Collection[str]) -> None:
        """Delete the prompts, what was written after them, and the choices, of pairs with one of these records,
        whoever left them.
        """
        for prompts in self._all(Prompts):
            if any({asked.left, asked.right} & set(gone) for asked in prompts.asked):
                for asked in prompts.asked:
                    self._store.drop(Continuation, asked.key())
                self._store.drop(Prompts, prompts.key)
        for choices in self._all(Choices):
            if set(choices.better.values()) & set(gone):
                self._store.drop(Choices, choices.key)

    def _all(self, kind: type[R]) -> Iterator[R]:
        for key in list(self._store.keys(kind)):
            with suppress(NewerError):
                if (kept := self._store.get(kind, key)) is not None:
                    yield kept

    def _mark(self, runs: Iterable[str], change: Callable[[RunMark], RunMark]) -> None:
        def changed(kept: RunMarks | None) -> RunMarks:
            marks = dict(kept.marks) if kept else {}
            marks |= {run: change(marks.get(run, RunMark())) for run in runs}
            left = {run: mark for run, mark in marks.items() if mark != RunMark()}
            return RunMarks(key=self._marks, marks=left, owner=self._owner)

        self._store.change(RunMarks, self._marks, changed)

    def _relist(self, asked: ContinuationSettings, head: tuple[ContinuationSettings, ...]) -> None:
        def changed(kept: Prompts | None) -> Prompts:
            rest = (other for other in (kept.asked if kept else ()) if other.key() != asked.key())
            return Prompts(key=key, asked=(*head, *rest)[:MOST_PROMPTS], owner=self._owner)

        key = self._prompts_key(asked.left, asked.right)
        self._store.change(Prompts, key, changed)

    def _prompts_key(self, left: str, right: str) -> str:
        return digest([left, right, self._owner] if self._owner else [left, right])

    def _pair(self, one: str, other: str) -> str:
        pair = sorted((one, other))
        return digest([*pair, self._owner] if self._owner else pair)
