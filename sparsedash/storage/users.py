"""Each user's prompts, choices, and names and pins of runs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.plain_values import digest
from sparsedash.schema.store_keys import judged_answers_note
from sparsedash.schema.user_records import (
    Choices,
    OwnPrompts,
    Prompts,
    RunMark,
    RunMarks,
)
from sparsedash.storage.serving import LOCAL
from sparsedash.storage.store import Store

MAX_PROMPTS = 50
LONGEST_NAME = 60


class UserData:
    """The prompts, choices and run names of one owner in one data folder. Every method may raise
    StoreError.

    owner: empty: shared by all, without a login.
    """

    def __init__(self, store: Store, owner: str = LOCAL) -> None:
        self._store = store
        self._owner = owner
        self._marks = digest(["marks", owner])
        self._own_prompts = digest(["own prompts", owner])

    def prompts(self, left: str, right: str) -> tuple[ContinuationSettings, ...]:
        """The prompts tried with these two records on these sides, newest first."""
        kept = self._store.get(Prompts, digest([left, right, self._owner]))
        return kept.asked if kept else ()

    def keep_prompt(self, prompt: ContinuationSettings) -> None:
        """Put the prompt at the head of its list, which drops the oldest above MAX_PROMPTS."""
        self._change_prompts(prompt, (prompt,))

    def drop_prompt(self, prompt: ContinuationSettings) -> None:
        """Remove the prompt from its list; its continuation stays in the store."""
        self._change_prompts(prompt, ())

    def own_prompts(self) -> tuple[str, ...] | None:
        """The prompts that runs begin with; None where the owner has kept none."""
        kept = self._store.get(OwnPrompts, self._own_prompts)
        return kept.prompts if kept else None

    def keep_own_prompts(self, prompts: tuple[str, ...]) -> None:
        """Let later runs begin with these prompts."""
        kept = OwnPrompts(key=self._own_prompts, prompts=prompts, owner=self._owner)
        self._store.put(kept.key, kept)

    def choices(self, one: str, other: str) -> dict[str, str]:
        """The record chosen by passage or prompt, see `Choices`, in either order."""
        kept = self._store.get(Choices, self._pair(one, other))
        return kept.better if kept else {}

    def choose(self, one: str, other: str, subject: str, better: str | None) -> None:
        """Record a choice in place of an earlier one; None undoes it."""
        key = self._pair(one, other)

        def changed(kept: Choices | None) -> Choices:
            choices = dict(kept.better) if kept else {}
            choices.pop(subject, None)
            if better is not None:
                choices[subject] = better
            return Choices(key=key, better=choices, owner=self._owner)

        self._store.change(Choices, key, changed)

    def forget_choices(self, one: str, other: str) -> None:
        """Delete all choices between these two records."""
        self._store.drop(Choices, self._pair(one, other))

    def judged_answers(self) -> tuple[str, ...]:
        """The keys of the opened answers that were judged last, the baseline first."""
        kept = self._store.recall(judged_answers_note(self._owner))
        return tuple(kept.split(",")) if kept else ()

    def keep_judged_answers(self, keys: tuple[str, ...]) -> None:
        """Remember what was judged last."""
        if keys != self.judged_answers():
            self._store.remember(judged_answers_note(self._owner), ",".join(keys))

    def _pair(self, one: str, other: str) -> str:
        return digest([*sorted((one, other)), self._owner])

    def marks(self) -> Mapping[str, RunMark]:
        """Names and pins of the runs that have one, by key."""
        kept = self._store.get(RunMarks, self._marks)
        return kept.marks if kept else {}

    def pinned_by_anybody(self) -> frozenset[str]:
        """The keys of the runs that any user has pinned."""
        pinned = set[str]()
        for kept in self._marks_of_all():
            pinned |= {run for run, mark in kept.marks.items() if mark.pinned}
        return frozenset(pinned)

    def _marks_of_all(self) -> list[RunMarks]:
        every = (self._store.get(RunMarks, key) for key in self._store.keys(RunMarks))
        return list(filter(None, every))

    def name_of(self, run: str) -> str:
        """The user's name for a run, or empty."""
        return self.marks().get(run, RunMark()).name

    def name_run(self, run: str, name: str) -> None:
        """Name a run; nothing removes its name.

        White space becomes single spaces, the end of a long name goes.
        """
        # No file can hold half of a surrogate pair.
        plain = " ".join(name.encode(errors="replace").decode().split())[
            :LONGEST_NAME
        ].rstrip()
        self._mark([run], lambda mark: replace(mark, name=plain))

    def pin_runs(self, runs: Iterable[str], pinned: bool) -> None:
        """Pin these runs before the others, or unpin them."""
        self._mark(runs, lambda mark: replace(mark, pinned=pinned))

    def forget_runs(self, runs: Iterable[str]) -> None:
        """Delete all users' names and pins of these runs."""
        deleted = set(runs)
        for kept in self._marks_of_all():
            if deleted & kept.marks.keys():
                UserData(self._store, kept.owner)._mark(deleted, lambda mark: RunMark())

    def _mark(self, runs: Iterable[str], change: Callable[[RunMark], RunMark]) -> None:
        def changed(kept: RunMarks | None) -> RunMarks:
            marks = dict(kept.marks) if kept else {}
            for run in runs:
                mark = change(marks.pop(run, RunMark()))
                if mark != RunMark():
                    marks[run] = mark
            return RunMarks(key=self._marks, marks=marks, owner=self._owner)

        self._store.change(RunMarks, self._marks, changed)

    def _change_prompts(
        self, prompt: ContinuationSettings, head: tuple[ContinuationSettings, ...]
    ) -> None:
        key = digest([prompt.left, prompt.right, self._owner])

        def changed(kept: Prompts | None) -> Prompts:
            earlier = kept.asked if kept else ()
            tail = tuple(known for known in earlier if known.key() != prompt.key())
            return Prompts(
                key=key, asked=(head + tail)[:MAX_PROMPTS], owner=self._owner
            )

        self._store.change(Prompts, key, changed)
