"""Streamlit's sessions under our border: whose uploads are taken, how many, and when their memory is free again."""

import asyncio
from types import SimpleNamespace

import pytest
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

from sparsedash.ui import middleware
from sparsedash.ui.middleware import MOST_FILES, VISITOR, UploadMiddleware

OPEN = {"tab": "ada", "second-tab": "ada", "other": "bob"}


@pytest.fixture
def streamlit(monkeypatch):
    """Streamlit's part: the open sessions by the visitor of each, the files in memory, and the endpoint."""
    files, pages = MemoryUploadedFileManager("/_stcore/upload_file"), dict(OPEN)

    def client(session):
        headers = [("x-sparsedash-visitor", pages[session])]
        return SimpleNamespace(client_context=SimpleNamespace(headers=headers))

    runtime = SimpleNamespace(
        uploaded_file_mgr=files,
        is_active_session=pages.__contains__,
        get_client=lambda session: client(session) if session in pages else None,
    )
    monkeypatch.setattr(middleware, "Runtime", SimpleNamespace(instance=lambda: runtime))
    return SimpleNamespace(files=files, pages=pages)


def guarded(streamlit):
    """Sends a request through, to an endpoint that waits for `arrived` and takes what it is sent."""

    async def endpoint(scope, receive, send):
        if scope["type"] == "websocket":
            return
        if scope["arrived"]:
            await scope["arrived"].wait()
        session, file = scope["path"].split("/")[-2:]
        if scope["method"] == "PUT":
            streamlit.files.add_file(session, UploadedFileRec(file, "a.txt", "text/plain", b"text"))
        await send({"type": "http.response.start", "status": 204, "headers": []})

    app = UploadMiddleware(endpoint)

    async def ask(name, path="", *, method="PUT", kind="http", arrived=None):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": kind, "method": method, "path": f"/_stcore/upload_file/{path}", "arrived": arrived}
        await app(scope | ({} if name is None else {VISITOR: name}), None, send)
        return sent[0]["status"] if sent else None

    return ask


def in_memory(streamlit):
    return sorted(f"{session}/{file}" for session, files in streamlit.files.file_storage.items() for file in files)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_nobody_uploads_to_or_deletes_from_another_s_session(streamlit, method):
    ask = guarded(streamlit)
    assert asyncio.run(ask("ada", "tab/mine")) == 204
    assert asyncio.run(ask("bob", "tab/mine", method=method)) == 404
    assert asyncio.run(ask("bob", "gone/mine", method=method)) == 404
    assert in_memory(streamlit) == ["tab/mine"]
    assert asyncio.run(ask("ada", "tab/mine", method=method)) == 204


@pytest.mark.parametrize("name", ["ada", None])
def test_of_each_visitor_the_newest_files_alone_are_in_memory_whatever_their_sessions(streamlit, name):
    ask = guarded(streamlit)

    async def bring():
        await ask("bob", "other/his")
        return [await ask(name, f"{session}/{number}") for number in range(4) for session in ("tab", "second-tab")]

    assert set(asyncio.run(bring())) == {204}
    assert in_memory(streamlit) == ["other/his", "second-tab/3", "tab/3"]


def test_files_that_arrive_count_and_one_more_is_refused_until_one_is_here(streamlit):
    ask = guarded(streamlit)

    async def bring():
        arrived = asyncio.Event()
        slow = [asyncio.create_task(ask("ada", f"tab/{n}", arrived=arrived)) for n in range(MOST_FILES)]
        await asyncio.sleep(0)
        assert await ask("ada", "tab/more") == 429
        assert await ask("bob", "other/his") == 204
        arrived.set()
        assert await asyncio.gather(*slow) == [204] * MOST_FILES
        assert await ask("ada", "tab/more") == 204

    asyncio.run(bring())
    assert in_memory(streamlit) == ["other/his", "tab/1", "tab/more"]


def test_what_a_page_has_read_leaves_room(streamlit):
    ask = guarded(streamlit)
    for number in range(3):
        assert asyncio.run(ask("ada", f"tab/{number}")) == 204
        if number:
            streamlit.files.remove_file("tab", str(number))
    assert in_memory(streamlit) == ["tab/0"]


def test_a_closed_page_leaves_nothing_and_what_arrives_after_it_neither(streamlit):
    ask = guarded(streamlit)

    async def close():
        await ask("ada", "second-tab/kept")
        await ask("ada", "tab/left")
        del streamlit.pages["tab"]
        await ask("ada", kind="websocket")
        assert in_memory(streamlit) == ["second-tab/kept"]
        arrived = asyncio.Event()
        late = asyncio.create_task(ask("ada", "second-tab/late", arrived=arrived))
        await asyncio.sleep(0)
        del streamlit.pages["second-tab"]
        arrived.set()
        await late

    asyncio.run(close())
    assert in_memory(streamlit) == []
