"""Commits of names on the hub: asked at most hourly when a job is submitted, and pinned."""

import time
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.catalog.harness_tasks import data_sets
from sparsedash.schema import store_keys
from sparsedash.schema.errors import ModelError
from sparsedash.schema.find_settings import FindSettings
from sparsedash.schema.records import Run
from sparsedash.schema.settings import DATA_SET, RunSettings, commit_of, is_commit
from sparsedash.service.model_lookup import look_up
from sparsedash.service.request_checks import is_hub_id
from sparsedash.storage.hub_reach import HubReach
from sparsedash.storage.model_folders import cached_commit
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import FILE

_RECHECK_S = 3600.0

Asked = TypeVar("Asked", bound=RunSettings | FindSettings)


@dataclass(frozen=True, kw_only=True)
class NotedCommit:
    """A commit that a name led to. asked_at: in seconds since the epoch."""

    commit: str
    asked_at: float


def pinned(settings: Asked, store: Store, hub: HubReach, *, with_token: bool) -> Asked:
    """The request with the current commits of its names on the hub; unchanged if it has some.

    Where the hub does not answer: as the local cache has them, or as they were noted. What has no
    commit is left out, and the run says why. with_token: see `fetch_config`.
    """
    if settings.revisions:
        return settings
    names = _hub_names(settings)
    if names and hub.answers():
        _ask(names, store, with_token=with_token)
        commits = {name: noted_commit(name, store) for name in names}
    else:
        commits = {
            name: cached_commit(name) or noted_commit(name, store) for name in names
        }
    return replace(
        settings,
        revisions=tuple((name, commit) for name, commit in commits.items() if commit),
    )


def noted_commit(name: str, store: Store) -> str:
    """The commit that a name led to when the hub was asked last; empty where it was not."""
    note = _noted(name, store)
    return note.commit if note else ""


def newer_revisions(run: Run, store: Store) -> dict[str, str]:
    """The names that a run read and that have moved since, with the new commit."""
    read = dict(run.settings.revisions)
    if commit := commit_of(run.model_identity):
        read.setdefault(run.settings.model, commit)
    newer = {}
    for name, commit in read.items():
        last = noted_commit(name, store)
        if last and last != commit:
            newer[name] = last
    return newer


def _hub_names(settings: RunSettings | FindSettings) -> list[str]:
    """The model, where a name on the hub may move, and the data sets of the tasks."""
    names = []
    if is_hub_id(settings.model) and not is_commit(settings.model.partition("@")[2]):
        names.append(settings.model)
    for task in settings.evaluation.tasks:
        if task not in BUILTIN_TASKS and not task.startswith(FILE):
            names += [DATA_SET + data_set for data_set in data_sets(task)]
    return list(dict.fromkeys(names))


def _ask(names: list[str], store: Store, *, with_token: bool) -> None:
    """Note the commits of names that the hub was not asked for within the hour."""
    asked_at = time.time()
    old = []
    for name in names:
        note = _noted(name, store)
        if note is None or not 0 <= asked_at - note.asked_at < _RECHECK_S:
            old.append(name)
    if not old:
        return
    try:
        answers = look_up(old, with_token=with_token)
    except ModelError:
        # The last commits stand; the run asks the hub itself.
        return
    for name, answer in answers.items():
        if commit := answer.get("commit"):
            note = NotedCommit(commit=commit, asked_at=asked_at)
            store.remember(
                store_keys.hub_commit_note(name), msgspec.json.encode(note).decode()
            )


def _noted(name: str, store: Store) -> NotedCommit | None:
    text = store.recall(store_keys.hub_commit_note(name))
    return None if text is None else msgspec.json.decode(text, type=NotedCommit)
