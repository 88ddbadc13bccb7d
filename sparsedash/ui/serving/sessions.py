"""Streamlit's sessions: each belongs to its visitor, and raw uploads to it do not pile up in the server's memory."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.runtime import Runtime
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager

from sparsedash.schema.hosting.serving import LOCAL
from sparsedash.ui.serving import visitor
from sparsedash.ui.serving.border import VISITOR

MOST_FILES = 2
"""Of each visitor that arrive or lie in memory at once, 50 MB each. A page reads its file at once, and lets it go."""

_UPLOADS = "/_stcore/upload_file/"


class Sessions:
    """Guards Streamlit's upload endpoint. To be wrapped in `Border`, which names the visitor.

    That nobody reconnects to the session of another is Streamlit's own check: `start.rules` makes the visitor a part of
    what it compares.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._arriving: Counter[str] = Counter()
        self._in_memory: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse uploads to sessions of others and too many at once; free what a closed page has left."""
        name = scope.get(VISITOR) or LOCAL
        _, is_upload, rest = scope["path"].partition(_UPLOADS) if scope["type"] == "http" else ("", "", "")
        session, _, file = rest.partition("/")
        if scope["type"] == "websocket":
            try:
                await self._app(scope, receive, send)
            finally:
                self._free_closed(name)
        elif not is_upload:
            await self._app(scope, receive, send)
        elif name != LOCAL and not _is_session_of(session, name):
            await PlainTextResponse("There is no such session of yours.", status_code=404)(scope, receive, send)
        elif scope["method"] != "PUT":
            await self._app(scope, receive, send)
        elif self._arriving[name] >= MOST_FILES:
            said = f"{MOST_FILES} of your files are arriving already. Wait until one is here."
            await PlainTextResponse(said, status_code=429)(scope, receive, send)
        else:
            with self._arrival(name, session, file):
                await self._app(scope, receive, send)

    @contextmanager
    def _arrival(self, name: str, session: str, file: str) -> Iterator[None]:
        """Count a file while it arrives. The visitor's oldest file in memory makes room for it."""
        self._arriving[name] += 1
        files = _files()
        unread = [each for each in self._in_memory[name] if files.get_files(each[0], [each[1]])]
        while len(unread) > MOST_FILES - self._arriving[name]:
            files.remove_file(*unread.pop(0))
        self._in_memory[name] = unread
        try:
            yield
        finally:
            self._arriving[name] -= 1
            self._in_memory[name].append((session, file))
            self._free_closed(name)

    def _free_closed(self, name: str) -> None:
        """Free the files of this visitor's sessions whose page is closed."""
        for session in {session for session, _ in self._in_memory[name]}:
            if not Runtime.instance().is_active_session(session):
                _files().remove_session_files(session)


def _files() -> MemoryUploadedFileManager:
    return cast(MemoryUploadedFileManager, Runtime.instance().uploaded_file_mgr)


def _is_session_of(session: str, name: str) -> bool:
    """Whether a page of this visitor is connected to the session."""
    client = Runtime.instance().get_client(session)
    context = client.client_context if client else None
    return context is not None and dict(context.headers).get(visitor.HEADER) == visitor.as_header(name).decode()
