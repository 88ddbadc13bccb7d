"""Whether the hub answers here: asked in the background, without a token, by the session of the
hub's own client.
"""

import time
from contextlib import suppress
from math import inf
from threading import Event, Lock, Thread

from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

_RECHECK_S = 60.0
_TIMEOUT_S = 3.0
_PAGE_S = 1.0
"""How long a page waits for the first answer."""


class HubReach:
    """Asks at most once a minute. Safe to share between threads."""

    def __init__(self, address: str = "" if HF_HUB_OFFLINE else ENDPOINT) -> None:
        """address: an empty one is never asked, and does not answer."""
        self._address = address
        self._answered = False
        self._asked_at = -inf
        self._lock = Lock()
        self._over = Event()

    def answers(self, wait_s: float = _PAGE_S) -> bool:
        """Whether it answered when it was asked last.

        wait_s: how long the first answer is waited for.
        """
        if not self._address:
            return False
        with self._lock:
            if time.monotonic() - self._asked_at > _RECHECK_S:
                self._asked_at = time.monotonic()
                # In a thread: looking up a name knows no timeout.
                Thread(target=self._ask, name="hub", daemon=True).start()
            rest_s = self._asked_at + wait_s - time.monotonic()
        self._over.wait(max(0.0, rest_s))
        return self._answered

    def _ask(self) -> None:
        # Here, since it brings the HTTP library in, which a page's first run need not wait for.
        from huggingface_hub import get_session

        answered = False
        # ValueError: the address is none.
        with suppress(HTTPError, OSError, ValueError):
            get_session().head(self._address, timeout=_TIMEOUT_S)
            answered = True
        self._answered = answered
        self._over.set()


def reachable() -> bool:
    """Whether the hub answers within seconds; never asked where the environment forbids it."""
    return HubReach().answers(_TIMEOUT_S)
