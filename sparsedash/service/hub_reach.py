"""Whether the hub answers here: asked in the background, without a token, while a page offers a text of the hub."""

import time
from http.client import HTTPException
from math import inf
from threading import Event, Lock, Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

_OLD_S = 60.0
_PATIENCE_S = 3.0
_FIRST_S = 1.0
"""How long a page waits for the first answer."""


class HubReach:
    """Asks at most once a minute. Safe to share between threads."""

    def __init__(self, address: str = "" if HF_HUB_OFFLINE else ENDPOINT) -> None:
        """address: an empty one is never asked, and does not answer."""
        self._address, self._answered, self._asked_at = address, False, -inf
        self._lock, self._over = Lock(), Event()

    def answers(self) -> bool:
        """Whether it answered when it was asked last."""
        if not self._address:
            return False
        with self._lock:
            if time.monotonic() - self._asked_at > _OLD_S:
                self._asked_at = time.monotonic()
                # In a thread: looking up a name knows no timeout.
                Thread(target=self._ask, name="hub", daemon=True).start()
            rest_s = self._asked_at + _FIRST_S - time.monotonic()
        self._over.wait(max(0.0, rest_s))
        return self._answered

    def _ask(self) -> None:
        answered = True
        try:
            urlopen(Request(self._address, method="HEAD"), timeout=_PATIENCE_S).close()  # noqa: S310
        except HTTPError as refusal:
            refusal.close()
        except (OSError, ValueError, HTTPException):
            # Nothing answers, or the address is none.
            answered = False
        self._answered = answered
        self._over.set()
