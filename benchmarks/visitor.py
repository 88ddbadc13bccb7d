"""A visitor without a browser: speaks Streamlit's own protocol with the server, and times what it is answered."""

import time
from dataclasses import dataclass, field
from urllib.parse import urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

ANSWER_S = 60.0
_WHOLE = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)


@dataclass
class Visit:
    """What one visitor was given. seconds: of every rerun, the whole page's and those of its polling parts."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Visitor:
    """One session on one page. Its parts that poll are asked for as often as the server says."""

    def __init__(self, address: str, page: str, **query: str) -> None:
        self._page, self._query, self._hash = page, urlencode(query), ""
        self._parts: dict[str, tuple[float, float]] = {}
        self.visit = Visit()
        self._connection: ClientConnection = connect(
            f"{address.replace('http', 'ws', 1)}/_stcore/stream", subprotocols=["streamlit"], max_size=None
        )

    def __enter__(self) -> "Visitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rerun(self, fragment: str = "") -> None:
        """Ask for the whole page or one of its parts, and wait until it is drawn."""
        message = BackMsg()
        message.rerun_script.query_string = self._query
        message.rerun_script.page_name = "" if self._hash else self._page
        message.rerun_script.page_script_hash = self._hash
        if fragment:
            message.rerun_script.fragment_id = fragment
            message.rerun_script.is_auto_rerun = True
        else:
            self._parts.clear()
        started = time.perf_counter()
        try:
            self._connection.send(message.SerializeToString())
            self._read_until_drawn()
        except (WebSocketException, OSError) as error:
            self.visit.errors.append(f"{type(error).__name__}: {error}")
            raise
        self.visit.seconds.append(time.perf_counter() - started)

    def stay(self, seconds: float) -> None:
        """Poll as a browser would for so long."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            due = [fragment for fragment, (at, _) in self._parts.items() if at <= now]
            for fragment in due:
                if fragment in self._parts:
                    interval = self._parts[fragment][1]
                    self._parts[fragment] = (time.monotonic() + interval, interval)
                    self.rerun(fragment)
            time.sleep(0.02)

    def _read_until_drawn(self) -> None:
        """Read up to the end of a whole run; one that was given up for another is followed by that."""
        while True:
            message = ForwardMsg.FromString(self._connection.recv(timeout=ANSWER_S))
            kind = message.WhichOneof("type")
            if kind == "auto_rerun":
                interval = message.auto_rerun.interval
                self._parts[message.auto_rerun.fragment_id] = (time.monotonic() + interval, interval)
            elif kind == "stop_auto_rerun":
                for gone in message.stop_auto_rerun.fragment_ids:
                    self._parts.pop(gone, None)
            elif kind == "new_session":
                self._hash = message.new_session.page_script_hash
            elif kind == "delta":
                self._note_error(message)
            elif kind == "script_finished":
                if message.script_finished in _WHOLE:
                    return
                # A part asked for the whole page: that comes next, and says anew what polls.
                self._parts.clear()

    def _note_error(self, message: ForwardMsg) -> None:
        element = message.delta.new_element
        kind = element.WhichOneof("type")
        if kind == "exception":
            self.visit.errors.append(f"{element.exception.type}: {element.exception.message}")
        elif kind == "html" and 'role="alert"' in element.html.body:
            self.visit.errors.append(element.html.body)
