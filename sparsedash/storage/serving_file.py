"""The file that says how others are served: SPARSEDASH_SERVE names it, and without that nobody else is."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.hosting.serving import LOCAL, HeaderLogin, OidcLogin, Quota, Serving
from sparsedash.storage.local_paths import local_path

VARIABLE = "SPARSEDASH_SERVE"
_TABLES: Mapping[str, type] = {"header": HeaderLogin, "oidc": OidcLogin, "quota": Quota}


def serving() -> Serving | None:
    """How others are served; None where only whoever sits in front of this machine is. Raises SettingsError.

    It is read once: a change counts from the next start.
    """
    named = os.environ.get(VARIABLE, "")
    return _read(local_path(named)) if named else None


def may_use_token(owner: str) -> bool:
    """Whether a job of this owner may use the hub's token: it is that of whoever runs the server.

    Where nobody says who administers, as on a machine of a cluster, no visitor's may.
    """
    rules = serving()
    return owner == LOCAL or (rules is not None and rules.administers(owner))


@lru_cache(maxsize=4)
def _read(path: Path) -> Serving:
    try:
        with path.open("rb") as file:
            said = tomllib.load(file)
    except OSError as error:
        raise SettingsError(VARIABLE, str(path), f"a file that can be read ({error.strerror})", _EXAMPLE) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(VARIABLE, str(path), f"a TOML file ({error})", _EXAMPLE) from error
    _refuse_unknown(said)
    try:
        return msgspec.convert(said, Serving)
    except msgspec.ValidationError as error:
        raise SettingsError(VARIABLE, str(path), f"what docs/deployment.md describes ({error})", _EXAMPLE) from error


def _refuse_unknown(said: Mapping[str, Any]) -> None:
    """A word that is misspelt must not leave a door open. Raises SettingsError."""
    parts: list[tuple[str, type, Any]] = [("", Serving, said)]
    parts += [(f"{name}.", kind, said[name]) for name, kind in _TABLES.items() if isinstance(said.get(name), dict)]
    for prefix, kind, values in parts:
        known = [each.name for each in fields(kind)]
        for name in values:
            if name not in known:
                raise SettingsError(f"{VARIABLE}: {prefix}{name}", values[name], f"one of {', '.join(known)}")


_EXAMPLE = "docs/deployment.md has an example under “Serving others”."
