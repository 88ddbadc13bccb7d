"""How much room the artefacts may take, and how it is made: what was used least recently goes first."""

import os
from math import ceil
from typing import Any

from sparsedash.schema.errors import SettingsError
from sparsedash.storage.cache_file import delete

VARIABLE = "SPARSEDASH_ARTEFACT_GB"
USUAL_GB = 20.0
LEAST_GB, MOST_GB = 0.1, 1_000_000.0
_ALLOWED = f"a number from {LEAST_GB:g} to {MOST_GB:,.0f}"


def bytes_of(gigabytes: float, field: str = VARIABLE) -> int:
    """So many GB of 2**30 bytes each. Raises SettingsError out of range. field: who says so."""
    if not LEAST_GB <= gigabytes <= MOST_GB:
        raise SettingsError(field, gigabytes, _ALLOWED)
    # Upwards: the least that may be asked for is not too little once it is kept.
    return ceil(gigabytes * 2**30)


def room_of_environment() -> int | None:
    """The bytes that the environment allows; None where it says nothing. Raises SettingsError on nonsense."""
    asked = os.environ.get(VARIABLE)
    if not asked:
        return None
    try:
        return bytes_of(float(asked))
    except (ValueError, SettingsError):
        raise SettingsError(VARIABLE, asked, _ALLOWED) from None


def kept_room(noted: str | None) -> int | None:
    """The bytes that a note in the data folder allows; None where there is none that can be meant."""
    number = int(noted) if noted and noted.isascii() and noted.isdigit() and len(noted) < 20 else 0
    return number if LEAST_GB <= number / 2**30 <= MOST_GB else None


def make_room(cache: Any, room: int, written: str = "") -> None:
    """Forget what was used least recently until no more than this is taken, but never the entry just written.

    diskcache would forget ten entries at once, and with few large ones that is all of them.
    """
    oldest = "SELECT key FROM Cache WHERE typeof(key) = 'text' AND key != ? ORDER BY access_time LIMIT 1"
    while cache.volume() > room:
        rows = cache._sql(oldest, (written,)).fetchall()
        if not rows:
            return
        delete(cache, rows[0][0])
