"""Users of a server: the rules of SPARSEDASH_SERVE, and each user's prompts, choices and run
names.
"""

import os
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import (
    Choices,
    ContinuationSettings,
    OwnPrompts,
    Prompts,
    RunMark,
    RunMarks,
)
from sparsedash.schema.plain_values import digest
from sparsedash.storage.local_machine import local_path
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import FILE

Login = Literal["oidc", "header"]
Limit = Annotated[int, Meta(ge=0, le=1_000_000)]

LOCAL = ""
"""The owner of everything without a login."""

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_USUAL_PORTS = {("https", 443), ("http", 80)}
_LONGEST_NAME = 200


class HeaderLogin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A proxy that names the user.

    name: of the header. proxies: the only addresses it is accepted from.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]*[A-Za-z0-9][A-Za-z0-9-]*\Z")] = (
        "X-Forwarded-User"
    )
    proxies: Annotated[tuple[str, ...], Meta(min_length=1)] = ("127.0.0.1", "::1")

    def __post_init__(self) -> None:
        # Its ValueError says which is no address.
        for proxy in self.proxies:
            ip_address(proxy)


class OidcLogin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An OpenID Connect provider, configured in `[auth]` of Streamlit's secrets.

    provider: its name, as in `[auth.google]`; "default" for `[auth]` itself. claim: the user's name
    in a login.
    """

    provider: str = "default"
    claim: str = "email"


class Quota(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of each user; administrators have none.

    uploads: files. upload_mb: all of them together, in millions of bytes. queued: jobs that wait or
    run. kept_gb: uploads and exports together, in thousands of millions of bytes; an export under
    way counts as its dense model.
    """

    uploads: Limit = 20
    upload_mb: Limit = 200
    queued: Limit = 5
    kept_gb: Limit = 5


class Serving(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules of serving other users. Unknown words are refused: a misspelt one must not leave a door
    open.

    address: of the server in a browser, up to the first slash. visitors: names or patterns of the
    allowed users; empty: administrators alone; None: all with a login. administrators: names of
    those who may do everything. folders: the only ones local files are read from. hub: names or
    patterns of the allowed hub models; empty: none; None: all.
    tasks: names or patterns of the allowed tasks; empty: none. see_each_other: whether users see
    each other's runs and jobs.
    """

    address: str
    login: Login
    administrators: tuple[Annotated[str, Meta(pattern=r"\S")], ...] = ()
    visitors: tuple[str, ...] | None = None
    folders: tuple[Annotated[str, Meta(pattern="^/")], ...] = ()
    hub: tuple[str, ...] | None = None
    tasks: tuple[str, ...] = ()
    see_each_other: bool = False
    header: HeaderLogin = HeaderLogin()
    oidc: OidcLogin = OidcLogin()
    quota: Quota = Quota()

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        # Without TLS a login could be read on the way.
        is_safe = parts.scheme == "https" or (
            parts.scheme == "http" and parts.hostname in _THIS_MACHINE
        )
        # As browsers send it: without the usual port, and without capital letters.
        is_normal = self.address == self.origin.lower() and "@" not in self.address
        has_usual_port = (parts.scheme, parts.port) in _USUAL_PORTS
        if not (is_safe and is_normal and parts.hostname) or has_usual_port:
            allowed = (
                "https:// (or http:// and localhost), a host name in small letters and perhaps a port other than the "
                "usual one, with nothing after it"
            )
            raise SettingsError("address", self.address, allowed)

    @property
    def origin(self) -> str:
        """Scheme, host and port of the address, as browsers send them."""
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{self.host}"

    @property
    def host(self) -> str:
        """Host and port of the address, as browsers name them."""
        return urlsplit(self.address).netloc

    def administers(self, visitor: str) -> bool:
        """Whether this user is an administrator. visitor: a `visitor_name`; likewise below."""
        return visitor in map(visitor_name, self.administrators)

    def allows_user(self, visitor: str) -> bool:
        """Whether this user is allowed at all."""
        return (
            self.visitors is None or self.administers(visitor) or _matches(visitor, self.visitors)
        )

    def offers(self, model: str) -> bool:
        """Whether this hub model is allowed."""
        return self.hub is None or _matches(model.partition("@")[0], self.hub)

    def offers_task(self, task: str) -> bool:
        """Whether this task of lm-evaluation-harness is allowed; files never are."""
        return not task.startswith(FILE) and _matches(task, self.tasks)


def visitor_name(name: str) -> str | None:
    """The normal form of a user's name; None for an impossible one."""
    # Not casefold, which makes one user of gross and groß.
    name = unicodedata.normalize("NFC", name).strip().lower()
    return name if 0 < len(name) <= _LONGEST_NAME and name.isprintable() else None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.strip().lower()) for pattern in patterns)


VARIABLE = "SPARSEDASH_SERVE"


def serving_rules() -> Serving | None:
    """The rules in the file that SPARSEDASH_SERVE names, or None. Raises SettingsError.

    It is read once: a change counts from the next start.
    """
    file = os.environ.get(VARIABLE, "")
    return _read(local_path(file)) if file else None


def may_use_token(owner: str) -> bool:
    """Whether a job of this owner may use the hub's token, which is the administrators'.

    Without rules, as on a machine of a cluster, no user's job may.
    """
    rules = serving_rules()
    return owner == LOCAL or (rules is not None and rules.administers(owner))


@lru_cache(maxsize=4)
def _read(path: Path) -> Serving:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Serving)
    except OSError as error:
        allowed = f"a file that can be read ({error.strerror})"
    except ValueError as error:
        allowed = f"a TOML file as docs/deployment.md describes it ({error})"
    raise SettingsError(
        VARIABLE, str(path), allowed, "docs/deployment.md has an example under “Serving others”."
    )


MOST_PROMPTS = 50
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
        """Put the prompt at the head of its list, which drops the oldest above MOST_PROMPTS."""
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
        key = self._own_prompts
        self._store.put(
            key,
            OwnPrompts(
                key=key,
                prompts=prompts,
                owner=self._owner,
            ),
        )

    def choices(self, one: str, other: str) -> dict[str, str]:
        """The record chosen by passage or prompt, see pair_records.Choices, in either order."""
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
        return [
            kept for key in self._store.keys(RunMarks) if (kept := self._store.get(RunMarks, key))
        ]

    def name_of(self, run: str) -> str:
        """The user's name for a run, or empty."""
        return self.marks().get(run, RunMark()).name

    def name_run(self, run: str, name: str) -> None:
        """Name a run; nothing removes its name.

        White space becomes single spaces, the end of a long name goes.
        """
        # No file can hold half of a surrogate pair.
        plain = " ".join(name.encode(errors="replace").decode().split())[:LONGEST_NAME].rstrip()
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
                key=key,
                asked=(head + tail)[:MOST_PROMPTS],
                owner=self._owner,
            )

        self._store.change(Prompts, key, changed)
