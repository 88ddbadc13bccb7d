"""Rules of serving other users: the file that SPARSEDASH_SERVE names."""

import os
import tomllib
import unicodedata
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from sparsedash.schema.errors import SettingsError
from sparsedash.storage.local_machine import local_path
from sparsedash.storage.text_files import FILE

Login = Literal["oidc", "header"]
Limit = Annotated[int, Meta(ge=0, le=1_000_000)]

LOCAL = ""
"""The owner of everything without a login."""

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_USUAL_PORTS = {("https", 443), ("http", 80)}
_LONGEST_NAME = 200


class HeaderLogin(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True
):
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
    """Rules of serving other users, as a file states them; it calls `users` visitors.

    Unknown words are refused: a misspelt one must not leave a door open.
    address: of the server in a browser, up to the first slash. users: names or patterns of the
    allowed users; empty: administrators alone; None: all with a login. administrators: names of
    those who may do everything. folders: the only ones local files are read from. hub: names or
    patterns of the allowed hub models; empty: none; None: all.
    tasks: names or patterns of the allowed tasks; empty: none. see_each_other: whether users see
    each other's runs and jobs.
    """

    address: str
    login: Login
    administrators: tuple[Annotated[str, Meta(pattern=r"\S")], ...] = ()
    users: tuple[str, ...] | None = msgspec.field(default=None, name="visitors")
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

    def administers(self, user: str) -> bool:
        """Whether this user is an administrator. user: a `user_name`; likewise below."""
        return user in map(user_name, self.administrators)

    def allows_user(self, user: str) -> bool:
        """Whether this user is allowed at all."""
        return (
            self.users is None or self.administers(user) or _matches(user, self.users)
        )

    def offers(self, model: str) -> bool:
        """Whether this hub model is allowed."""
        return self.hub is None or _matches(model.partition("@")[0], self.hub)

    def offers_task(self, task: str) -> bool:
        """Whether this task of lm-evaluation-harness is allowed; files never are."""
        return not task.startswith(FILE) and _matches(task, self.tasks)


def user_name(name: str) -> str | None:
    """The normal form of a user's name; None for an impossible one."""
    # Not casefold, which makes one user of gross and groß.
    name = unicodedata.normalize("NFC", name).strip().lower()
    return name if 0 < len(name) <= _LONGEST_NAME and name.isprintable() else None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        fnmatchcase(name.lower(), pattern.strip().lower()) for pattern in patterns
    )


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
        VARIABLE,
        str(path),
        allowed,
        "docs/deployment.md has an example under “Serving others”.",
    )
