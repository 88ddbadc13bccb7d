"""How others are served: what the configuration says of logins, folders, the hub and quotas, checked when built."""

import unicodedata
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.validation import one_of, whole

Login = Literal["oidc", "header"]

LOCAL = ""
"""The owner of everything while nobody else is served: whoever sits in front of the machine."""

_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_LONGEST_NAME = 200
_MOST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class HeaderLogin:
    """A proxy that says who somebody is. name: of the header. proxies: the only addresses it is believed from."""

    name: str = "X-Forwarded-User"
    proxies: tuple[str, ...] = ("127.0.0.1", "::1")

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").isalnum() or not self.name.isascii():
            raise SettingsError("header.name", self.name, "letters, digits and -")
        for proxy in self.proxies:
            try:
                ip_address(proxy)
            except ValueError as error:
                raise SettingsError("header.proxies", proxy, "addresses such as 127.0.0.1") from error
        if not self.proxies:
            raise SettingsError("header.proxies", self.proxies, "at least one address")


@dataclass(frozen=True, kw_only=True)
class OidcLogin:
    """A provider of logins, as `[auth]` of Streamlit's secrets describes it.

    provider: the part of it that is meant, as in `[auth.google]`; "default" for `[auth]` itself. claim: what of a login
    is the visitor's name.
    """

    provider: str = "default"
    claim: str = "email"


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What each visitor may have at most; administrators may have as much as there is room for.

    uploads: files. upload_mb: all of them together, in millions of bytes. queued: jobs that wait or run. kept_gb:
    uploads and exports together, in thousands of millions of bytes; an export under way counts as its dense model.
    """

    uploads: int = 20
    upload_mb: int = 200
    queued: int = 5
    kept_gb: int = 5

    def __post_init__(self) -> None:
        for name in ("uploads", "upload_mb", "queued", "kept_gb"):
            whole(f"quota.{name}", getattr(self, name), 0, _MOST)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Others are served, and these are the rules.

    address: what a browser shows before the first slash. visitors: names or patterns of those who may come in; empty:
    all whom the login lets through. administrators: names of those who may do all that the pages offer. folders: below
    which alone local files are read. hub: names or patterns of the hub's models that may be used; empty: none; None:
    all. see_each_other: whether everybody sees everybody's runs and jobs.
    """

    address: str
    login: Login
    administrators: tuple[str, ...] = ()
    visitors: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    hub: tuple[str, ...] | None = None
    see_each_other: bool = False
    header: HeaderLogin = field(default_factory=HeaderLogin)
    oidc: OidcLogin = field(default_factory=OidcLogin)
    quota: Quota = field(default_factory=Quota)

    def __post_init__(self) -> None:
        one_of("login", self.login, Login)
        parts = urlsplit(self.address)
        if parts.scheme not in ("http", "https") or not parts.hostname or self.address != self.origin:
            raise SettingsError(
                "address", self.address, "https://, a host name and perhaps a port, with nothing after it"
            )
        if parts.scheme == "http" and parts.hostname not in _THIS_MACHINE:
            raise SettingsError("address", self.address, "https, or a login could be read on the way")
        for folder in self.folders:
            if not Path(folder).is_absolute():
                raise SettingsError("folders", folder, "whole paths, from / on")
        for name in self.administrators:
            if visitor_name(name) is None:
                raise SettingsError("administrators", name, f"names of up to {_LONGEST_NAME} characters")

    @property
    def origin(self) -> str:
        """Scheme, host and port of the address, as browsers send them."""
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def host(self) -> str:
        """Host and port of the address, as browsers name them."""
        return urlsplit(self.address).netloc.lower()

    def administers(self, visitor: str) -> bool:
        """Whether this visitor is an administrator. visitor: as `visitor_name` gives it; likewise below."""
        return visitor in {visitor_name(name) for name in self.administrators}

    def lets_in(self, visitor: str) -> bool:
        """Whether somebody of this name may come in at all."""
        return not self.visitors or self.administers(visitor) or _matches(visitor, self.visitors)

    def offers(self, model: str) -> bool:
        """Whether this model of the hub may be used."""
        return self.hub is None or _matches(model.partition("@")[0], self.hub)


def visitor_name(said: str) -> str | None:
    """The one spelling of a visitor's name; None for what can be none."""
    name = unicodedata.normalize("NFC", said).strip().casefold()
    return name if 0 < len(name) <= _LONGEST_NAME and name.isprintable() else None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name.casefold(), pattern.strip().casefold()) for pattern in patterns)
