"""Which requests and uploads the middleware lets through, and whether the server starts at all; without a server."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from starlette.requests import Request
from streamlit import config
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

from sparsedash.storage.users import HeaderLogin, Serving
from sparsedash.ui import frame, login, middleware, server
from sparsedash.ui.middleware import MOST_FILES, VISITOR, access_check, may_see_details, upload_guard

RULES = Serving(
    address="https://sparse.example.org",
    login="header",
    administrators=("root",),
    header=HeaderLogin(name="X-Remote-User", proxies=("10.0.0.2",)),
)
OWN = {"host": "sparse.example.org", "origin": "https://sparse.example.org"}
HERE = ("127.0.0.1", 8501)


def crossed(rules, path="/prune", kind="http", server=HERE, client=("10.0.0.2", 5), media_type="", **headers):
    """What came of a request: the status, the body, and the scope that the application saw or None."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": kind,
        "path": path,
        "query_string": b"",
        "server": server,
        "client": client,
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
    }
    seen, sent = [], []

    async def app(scope, receive, send):
        seen.append(scope)
        if kind == "http":
            kept = [(b"content-type", media_type.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": kept})
            await send({"type": "http.response.body", "body": b"whole"})

    async def send(message):
        sent.append(message)

    asyncio.run(access_check(app, rules)(scope, None, send))
    starts = [message for message in sent if message["type"] == "http.response.start"]
    body = b"".join(message.get("body", b"") for message in sent)
    if kind == "websocket":
        return ("open" if seen else sent[0]["type"]), body, seen
    return starts[0], body, seen


def status(*arguments, **options):
    start, _, seen = crossed(*arguments, **options)
    assert bool(seen) == (start["status"] == 200)
    return start["status"]


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("localhost:8501", None, True),
        ("127.0.0.1:8501", "http://127.0.0.1:8501", True),
        ("localhost:8501", "http://localhost:8501", True),
        ("localhost:8501", "http://localhost:9999", False),
        ("127.0.0.1:8501", "http://localhost:8501", False),
        ("127.0.0.1:8501", "http://127.0.0.1", False),
        ("127.0.0.1:8501", "null", False),
        ("127.0.0.1:8501", "https://evil.example", False),
        ("evil.example:8501", None, False),
        ("evil.example:8501", "http://evil.example:8501", False),
        ("", None, False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_this_server_s_own_pages_drive_it_on_loopback(kind, host, origin, allowed):
    headers = {"host": host} | ({"origin": origin} if origin else {})
    if kind == "http":
        assert status(None, **headers) == (200 if allowed else 403)
    else:
        assert crossed(None, "/_stcore/stream", kind, **headers)[0] == ("open" if allowed else "websocket.close")


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.0.9", "2001:db8::1"])
def test_what_comes_in_from_elsewhere_is_refused_while_there_is_no_login(address):
    assert status(None, server=(address, 8501), host="127.0.0.1:8501") == 403
    assert status(None, server=("::1", 8501), host="127.0.0.1:8501") == 200


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "127.0.0.1:8501"},
        {"host": "evil.example"},
        {"origin": "http://sparse.example.org"},
        {"origin": "https://sparse.example.org:8443"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_where_others_are_served_host_and_origin_are_those_of_the_address(kind, changed):
    headers = {**OWN, "x_remote_user": "ada", **changed}
    answer, _, seen = crossed(RULES, kind=kind, **headers)
    assert seen == [] and (answer == "websocket.close" if kind == "websocket" else answer["status"] == 403)


def test_a_page_of_the_server_itself_comes_in_with_its_user_s_name():
    for kind in ("http", "websocket"):
        _, _, (scope,) = crossed(RULES, kind=kind, x_remote_user="Ada Löve", **OWN)
        assert (b"x-sparsedash-visitor", b"ada%20l%C3%B6ve") in scope["headers"]


def test_a_websocket_without_an_origin_is_no_page_s():
    assert crossed(RULES, kind="websocket", host="sparse.example.org", x_remote_user="ada")[0] == "websocket.close"
    assert status(RULES, host="sparse.example.org", x_remote_user="ada") == 200


@pytest.mark.parametrize(
    "path", ["/", "/prune", "/static/js/index.js", "/media/abc.csv", "/_stcore/health", "/component"]
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_nothing_is_shown_to_who_has_not_logged_in(path, kind):
    answer, _, seen = crossed(RULES, path, kind, **OWN)
    assert seen == [] and (answer == "websocket.close" if kind == "websocket" else answer["status"] == 401)


def test_the_header_counts_from_the_proxy_alone_and_only_once():
    assert status(RULES, client=("10.0.0.3", 5), x_remote_user="ada", **OWN) == 401
    assert status(RULES, client=None, x_remote_user="ada", **OWN) == 401
    assert status(RULES, x_remote_user="", **OWN) == 401
    twice = Request({"type": "http", "client": ("10.0.0.2", 5), "headers": [(b"x-remote-user", b"ada")] * 2})
    assert login.authenticated_user(twice, RULES) is None


def test_what_a_browser_says_of_itself_is_dropped():
    _, _, (scope,) = crossed(RULES, x_remote_user="ada", x_sparsedash_visitor="root", **OWN)
    assert [value for name, value in scope["headers"] if name == b"x-sparsedash-visitor"] == [b"ada"]
    _, _, (scope,) = crossed(None, host="localhost", x_sparsedash_visitor="root")
    assert b"x-sparsedash-visitor" not in dict(scope["headers"])


def test_who_is_not_on_the_list_is_told_so():
    listed = replace(RULES, visitors=("ada",))
    assert status(listed, x_remote_user="ada", **OWN) == 200
    assert status(listed, x_remote_user="root", **OWN) == 200
    start, body, _ = crossed(listed, x_remote_user="<b>eve", accept="text/html", **OWN)
    assert start["status"] == 403
    assert b"&lt;b&gt;eve" in body


@pytest.mark.parametrize(("rules", "details"), [(None, True), (RULES, False)])
def test_the_health_is_one_word_for_who_has_not_logged_in(monkeypatch, rules, details):
    facts = {"status": "ok", "running": 3}
    monkeypatch.setattr(frame, "backend", lambda: SimpleNamespace(health=lambda: facts))
    for named in ("127.0.0.1:8501", *([OWN["host"]] if rules else [])):
        _, _, (scope,) = crossed(rules, "/health", host=named)
        assert may_see_details(scope) == details
        assert json.loads(server.health_route(Request(scope)).body) == (facts if details else {"status": "ok"})
    if rules:
        _, _, (scope,) = crossed(rules, "/health", x_remote_user="ada", host=OWN["host"])
        assert "running" in json.loads(server.health_route(Request(scope)).body)


def test_a_download_is_its_user_s_and_its_mark_stays_here(monkeypatch):
    monkeypatch.setattr(login, "serving_rules", lambda: RULES)
    monkeypatch.setattr(login, "current_user", lambda: "ada")
    marked = login.private_media_type("text/csv")
    assert marked.startswith("text/csv; ")
    start, body, _ = crossed(RULES, "/media/a.csv", media_type=f"{marked}; charset=utf-8", x_remote_user="ada", **OWN)
    assert (start["status"], dict(start["headers"])[b"content-type"], body) == (200, b"text/csv", b"whole")
    start, body, _ = crossed(RULES, "/media/a.csv", media_type=marked, x_remote_user="bob", **OWN)
    assert (start["status"], body) == (404, b"")
    start, body, _ = crossed(RULES, "/media/logo.svg", media_type="image/svg+xml", x_remote_user="bob", **OWN)
    assert (start["status"], body) == (200, b"whole")


def test_downloads_carry_no_mark_while_nobody_else_is_served(monkeypatch):
    monkeypatch.delenv("SPARSEDASH_SERVE", raising=False)
    assert login.private_media_type("text/csv") == "text/csv"


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

    app = upload_guard(endpoint)

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


HEADER = 'address = "https://sparse.example.org:8443"\nlogin = "header"\n'
OIDC = 'address = "http://localhost:8501"\nlogin = "oidc"\n'
AUTH = {
    "redirect_uri": "http://localhost:8501/oauth2callback",
    "cookie_secret": "x" * 32,
    "client_id": "sparsedash",
    "client_secret": "s",
    "server_metadata_url": "http://localhost:9400/.well-known/openid-configuration",
}


@pytest.fixture
def options(monkeypatch):
    """Options of Streamlit, as a test has set them."""
    kept = {"server.address": "127.0.0.1"}
    monkeypatch.setattr(config, "get_option", kept.get)
    monkeypatch.setattr(config, "set_option", kept.__setitem__)
    monkeypatch.delenv("SPARSEDASH_SERVE", raising=False)
    return kept


@pytest.fixture
def configured(options, monkeypatch, tmp_path):
    def write(text, auth=None):
        path = tmp_path / "serve.toml"
        path.write_text(text)
        monkeypatch.setenv("SPARSEDASH_SERVE", str(path))
        monkeypatch.setattr(middleware, "get_secrets_auth_section", lambda: auth or {})

    return write


def refused():
    with pytest.raises(SystemExit) as ended:
        middleware.checked_serving_rules()
    return str(ended.value)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_the_machine_itself_is_served_without_a_login(options, address):
    options["server.address"] = address
    assert middleware.checked_serving_rules() is None


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.168.0.9", "example.org", "", None])
def test_without_a_login_it_listens_nowhere_else(options, address):
    options["server.address"] = address
    assert "there is no login" in refused()


def test_a_configuration_that_cannot_be_read_ends_it_in_words(configured):
    configured('login = "header"')
    assert refused().startswith("SparseDash is not served.")


def test_a_proxy_s_word_needs_its_own_address_to_be_seen(configured, monkeypatch):
    configured(HEADER)
    for value in (None, "127.0.0.1", "*"):
        monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
        if value is not None:
            monkeypatch.setenv("FORWARDED_ALLOW_IPS", value)
        assert "FORWARDED_ALLOW_IPS" in refused()


def test_with_a_login_it_listens_anywhere_and_streamlit_knows_the_public_name(configured, options, monkeypatch):
    configured(HEADER)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")
    options["server.address"] = "0.0.0.0"
    assert middleware.checked_serving_rules().login == "header"
    assert options["server.allowedHosts"] == ["sparse.example.org", "localhost", "127.0.0.1"]
    assert list(options["server.trustedUserHeaders"]) == [login.USER_HEADER], (
        "a session is given back to its visitor alone"
    )


def test_a_provider_of_logins_is_described_whole(configured):
    configured(OIDC, AUTH)
    assert middleware.checked_serving_rules().login == "oidc"
    for missing in AUTH:
        configured(OIDC, {name: value for name, value in AUTH.items() if name != missing})
        assert missing in refused()
    configured(OIDC, AUTH | {"cookie_secret": "short"})
    assert "32" in refused()
    configured(OIDC, AUTH | {"redirect_uri": "http://localhost:9999/oauth2callback"})
    assert "http://localhost:8501/oauth2callback" in refused()


def test_a_provider_with_a_name_has_a_part_of_its_own_that_is_described_whole(configured):
    own = {name: AUTH[name] for name in ("client_id", "client_secret", "server_metadata_url")}
    common = {name: AUTH[name] for name in ("redirect_uri", "cookie_secret")}
    named = OIDC + '[oidc]\nprovider = "work"\n'
    configured(named, common | {"work": own})
    assert middleware.checked_serving_rules().oidc.provider == "work"
    configured(named, AUTH)
    assert "client_id" in refused()
