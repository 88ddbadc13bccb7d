"""Which requests and uploads the middleware lets through, and whether the server starts at all;
without a server.
"""

import asyncio
import json
from types import SimpleNamespace

import msgspec
import pytest
from starlette.requests import Request
from streamlit import config
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.uploaded_file_manager import UploadedFileRec

from sparsedash.storage.serving import HeaderLogin, Serving
from sparsedash.ui import frame, login, middleware, server
from sparsedash.ui.middleware import MAX_FILES, USER, access_check, upload_guard

RULES = Serving(
    address="https://sparse.example.org",
    login="header",
    administrators=("root",),
    header=HeaderLogin(name="X-Remote-User", proxies=("10.0.0.2",)),
)
OWN = {"host": "sparse.example.org", "origin": "https://sparse.example.org"}
HERE = ("127.0.0.1", 8501)


def crossed(
    rules,
    path="/prune",
    kind="http",
    server=HERE,
    client=("10.0.0.2", 5),
    media_type="",
    **headers,
):
    """What came of a request: the status (403 of a closed WebSocket), the body and headers, and the
    scope inside.
    """
    named = [
        (name.replace("_", "-").encode(), value.encode())
        for name, value in headers.items()
    ]
    more = {
        "query_string": b"",
        "scheme": "http",
        "server": server,
        "client": client,
        "headers": named,
    }
    seen = []
    sent = []

    async def app(scope, receive, send):
        seen.append(scope)
        if kind == "http":
            kept = [(b"content-type", media_type.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": kept})
            await send({"type": "http.response.body", "body": b"whole"})

    async def send(message):
        sent.append(message)

    asyncio.run(
        access_check(app, rules)({"type": kind, "path": path, **more}, None, send)
    )
    if kind == "websocket":
        return SimpleNamespace(status=200 if seen else 403, inside=seen)
    body = b"".join(message.get("body", b"") for message in sent)
    return SimpleNamespace(
        status=sent[0]["status"],
        headers=dict(sent[0]["headers"]),
        body=body,
        inside=seen,
    )


LOOPBACK = [
    ({"host": "localhost:8501"}, 200),
    ({"host": "127.0.0.1:8501", "origin": "http://127.0.0.1:8501"}, 200),
    ({"host": "localhost:8501", "origin": "http://localhost:9999"}, 403),
    ({"host": "127.0.0.1:8501", "origin": "http://localhost:8501"}, 403),
    ({"host": "127.0.0.1:8501", "origin": "null"}, 403),
    ({"host": "evil.example:8501", "origin": "http://evil.example:8501"}, 403),
    ({"host": ""}, 403),
    ({"host": "127.0.0.1:8501", "server": ("10.1.2.3", 8501)}, 403),
    ({"host": "127.0.0.1:8501", "server": ("2001:db8::1", 8501)}, 403),
    ({"host": "127.0.0.1:8501", "server": ("::1", 8501)}, 200),
]
ADA = {**OWN, "x_remote_user": "ada"}


def test_a_user_has_one_backend_so_that_what_is_cached_of_it_is_found(backend):
    ada = frame._seen_by(backend, "ada", RULES)
    assert (
        frame._seen_by(backend, "ada", RULES)
        is ada
        is not frame._seen_by(backend, "bob", RULES)
    )


SERVED = [
    (ADA, 200),
    (ADA | {"host": "127.0.0.1:8501"}, 403),
    (ADA | {"origin": "http://sparse.example.org"}, 403),
    (ADA | {"origin": "https://sparse.example.org:8443"}, 403),
    (ADA | {"origin": "null"}, 403),
    *(
        (OWN | {"path": path}, 401)
        for path in ("/", "/static/js/index.js", "/media/abc.csv", "/_stcore/health")
    ),
    # The header counts from the proxy alone.
    (ADA | {"client": ("10.0.0.3", 5)}, 401),
    (ADA | {"client": None}, 401),
    (ADA | {"x_remote_user": ""}, 401),
]
REQUESTS = [*((None, *case) for case in LOOPBACK), *((RULES, *case) for case in SERVED)]


@pytest.mark.parametrize(
    ("rules", "request_", "status"), REQUESTS, ids=range(len(REQUESTS))
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_own_pages_of_users_who_have_logged_in_come_through(
    kind, rules, request_, status
):
    outcome = crossed(rules, kind=kind, **request_)
    assert bool(outcome.inside) == (outcome.status == 200)
    assert outcome.status == (status if kind == "http" or status == 200 else 403)


def test_a_page_of_the_server_itself_comes_in_with_its_user_s_name():
    for kind in ("http", "websocket"):
        (scope,) = crossed(
            RULES,
            kind=kind,
            x_remote_user="Ada Löve",
            **OWN,
        ).inside
        assert (b"x-sparsedash-visitor", b"ada%20l%C3%B6ve") in scope["headers"]
    # A WebSocket without an origin is no page's.
    nameless = {"host": "sparse.example.org", "x_remote_user": "ada"}
    assert [
        crossed(
            RULES,
            kind=kind,
            **nameless,
        ).status
        for kind in ("http", "websocket")
    ] == [
        200,
        403,
    ]
    twice = Request(
        {
            "type": "http",
            "client": ("10.0.0.2", 5),
            "headers": [(b"x-remote-user", b"ada")] * 2,
        }
    )
    assert login.authenticated_user(twice, RULES) is None


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "ada@x.org"),
        ({"email_verified": True}, "ada@x.org"),
        ({"email_verified": "true"}, "ada@x.org"),
        ({"email_verified": False}, None),
        ({"email_verified": "false"}, None),
        ({"is_logged_in": False}, None),
        ({"origin": "https://other.example.org"}, None),
        ({"provider": "another"}, None),
        ({"email": 5}, None),
    ],
)
def test_a_cookie_counts_for_a_login_here_by_the_configured_provider_with_a_verified_address(
    monkeypatch, changed, name
):
    rules = Serving(address="https://sparse.example.org", login="oidc")
    user = {
        "is_logged_in": True,
        "origin": rules.origin,
        "provider": rules.oidc.provider,
        "email": "ada@x.org",
    }
    cookie = json.dumps(user | changed).encode()
    monkeypatch.setattr(login, "get_cookie_with_chunks", lambda signed, of: cookie)
    assert (
        login.authenticated_user(Request({"type": "http", "headers": []}), rules)
        == name
    )


@pytest.mark.parametrize(
    ("path", "wanted", "leads"),
    [
        ("/", "/compare?run=a", True),
        ("/runs", "/compare?run=a", False),
        ("/", "//evil.example", False),
        ("/", "/\\evil.example", False),
        ("/", "https://evil.example", False),
        ("/", "", False),
    ],
)
def test_a_login_leads_back_into_the_dashboard_and_nowhere_else(path, wanted, leads):
    headers = [
        (b"host", b"sparse.example.org"),
        (b"cookie", f"sparsedash_wanted={wanted}".encode()),
    ]
    request = Request(
        {"type": "http", "path": path, "query_string": b"", "headers": headers}
    )
    answer = login.redirect_after_login(request)
    assert (answer is not None and answer.headers["location"] == wanted) is leads


@pytest.mark.parametrize(
    ("address", "secure"),
    [("https://sparse.example.org", True), ("http://localhost:1", False)],
)
def test_no_script_reads_where_a_login_leads_and_its_page_is_not_kept(address, secure):
    answer = login.login_page(Serving(address=address, login="oidc"), "/runs")
    cookie = answer.headers["set-cookie"].lower()
    assert (
        "httponly" in cookie
        and "samesite=lax" in cookie
        and ("; secure" in cookie) is secure
    )
    assert answer.headers["cache-control"] == "no-store"
    assert (
        "set-cookie"
        not in login.login_page(
            Serving(address=address, login="oidc"), "/" + "x" * 4000
        ).headers
    )


def test_what_a_browser_says_of_itself_is_dropped():
    (scope,) = crossed(
        RULES,
        x_sparsedash_visitor="root",
        **ADA,
    ).inside
    assert [
        value for name, value in scope["headers"] if name == b"x-sparsedash-visitor"
    ] == [b"ada"]
    (scope,) = crossed(
        None,
        host="localhost",
        x_sparsedash_visitor="root",
    ).inside
    assert b"x-sparsedash-visitor" not in dict(scope["headers"])


def test_who_is_not_on_the_list_is_told_so():
    listed = msgspec.structs.replace(RULES, users=("ada",))
    assert [
        crossed(
            listed,
            x_remote_user=name,
            **OWN,
        ).status
        for name in ("ada", "root", "eve")
    ] == [200, 200, 401]
    refused = crossed(
        listed,
        x_remote_user="<b>eve",
        accept="text/html",
        **OWN,
    )
    assert refused.status == 403 and b"&lt;b&gt;eve" in refused.body
    # The header is the proxy's, which alone could end that login.
    assert b"Log out" not in refused.body
    assert (
        b"Log out"
        in login.no_access_page(
            Serving(address="http://localhost:1", login="oidc"), "eve"
        ).body
    )


@pytest.mark.parametrize(
    ("rules", "headers", "details"),
    [
        (None, {"host": "127.0.0.1:8501"}, True),
        (RULES, {"host": "127.0.0.1:8501"}, False),
        (RULES, {"host": OWN["host"]}, False),
        (RULES, {"host": OWN["host"], "x_remote_user": "ada"}, True),
    ],
)
def test_the_health_is_one_word_for_who_has_not_logged_in(
    monkeypatch, rules, headers, details
):
    facts = {"status": "ok", "running": 3}
    monkeypatch.setattr(frame, "backend", lambda: SimpleNamespace(health=lambda: facts))
    (scope,) = crossed(rules, "/health", **headers).inside
    assert json.loads(server.health_route(Request(scope)).body) == (
        facts if details else {"status": "ok"}
    )


def test_a_download_is_its_user_s_and_its_mark_stays_here(monkeypatch):
    assert login.private_media_type("text/csv") == "text/csv"
    monkeypatch.setattr(login, "serving_rules", lambda: RULES)
    monkeypatch.setattr(login, "current_user", lambda: "ada")
    marked = login.private_media_type("text/csv")
    assert marked.startswith("text/csv; ")
    download = crossed(
        RULES,
        "/media/a.csv",
        media_type=f"{marked}; charset=utf-8",
        **ADA,
    )
    assert (download.status, download.headers[b"content-type"], download.body) == (
        200,
        b"text/csv",
        b"whole",
    )
    bob = ADA | {"x_remote_user": "bob"}
    assert (
        crossed(
            RULES,
            "/media/a.csv",
            media_type=marked,
            **bob,
        ).status
        == 404
    )
    assert (
        crossed(
            RULES,
            "/media/a.csv",
            media_type=marked,
            **bob,
        ).body
        == b""
    )
    assert (
        crossed(
            RULES,
            "/media/logo.svg",
            media_type="image/svg+xml",
            **bob,
        ).body
        == b"whole"
    )


OPEN = {"tab": "ada", "second-tab": "ada", "other": "bob"}


@pytest.fixture
def streamlit(monkeypatch):
    """Streamlit's part: the open sessions by the visitor of each, the files in memory, and the
    endpoint.

    ask: a request to it; the endpoint waits for `arrived` and takes what it is sent.
    """
    files = MemoryUploadedFileManager("/_stcore/upload_file")
    pages = dict(OPEN)

    def client(session):
        context = SimpleNamespace(
            headers=[("x-sparsedash-visitor", pages.get(session))]
        )
        return SimpleNamespace(client_context=context) if session in pages else None

    runtime = SimpleNamespace(
        uploaded_file_mgr=files, is_active_session=pages.__contains__, get_client=client
    )
    monkeypatch.setattr(middleware, "MAX_BYTES", len(b"text"))
    monkeypatch.setattr(
        middleware, "Runtime", SimpleNamespace(instance=lambda: runtime)
    )

    async def endpoint(scope, receive, send):
        if scope["type"] == "websocket":
            return
        if scope["arrived"]:
            await scope["arrived"].wait()
        session, file = scope["path"].split("/")[-2:]
        if scope["method"] == "PUT":
            files.add_file(
                session, UploadedFileRec(file, "a.txt", "text/plain", b"text")
            )
        await send({"type": "http.response.start", "status": 204, "headers": []})

    app = upload_guard(endpoint)

    async def ask(name, path="", *, method="PUT", kind="http", arrived=None, size=None):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {
            "type": kind,
            "method": method,
            "path": f"/_stcore/upload_file/{path}",
            "arrived": arrived,
            "headers": []
            if size is None
            else [(b"content-length", str(size).encode())],
        }
        await app(scope | ({} if name is None else {USER: name}), None, send)
        return sent[0]["status"] if sent else None

    def held():
        names = []
        for session, kept in files.file_storage.items():
            names += [f"{session}/{file}" for file in kept]
        return sorted(names)

    return SimpleNamespace(
        files=files,
        pages=pages,
        ask=ask,
        held=held,
    )


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_nobody_uploads_to_or_deletes_from_another_s_session(streamlit, method):
    requests = [
        ("ada", "tab/mine", "PUT"),
        ("bob", "tab/mine", method),
        ("bob", "gone/mine", method),
    ]
    assert [
        asyncio.run(streamlit.ask(name, path, method=verb))
        for name, path, verb in requests
    ] == [
        204,
        404,
        404,
    ]
    assert streamlit.held() == ["tab/mine"]
    assert asyncio.run(streamlit.ask("ada", "tab/mine", method=method)) == 204


@pytest.mark.parametrize("name", ["ada", None])
def test_of_each_visitor_few_files_are_in_memory_whatever_their_sessions_until_a_page_has_read_one(
    streamlit, name
):
    async def bring():
        paths = ["tab/0", "second-tab/0", "tab/1", "second-tab/1"]
        before = [await streamlit.ask(name, path) for path in paths]
        assert await streamlit.ask("bob", "other/his") == 204
        streamlit.files.remove_file("tab", "0")
        return [*before, await streamlit.ask(name, "tab/2")]

    assert asyncio.run(bring()) == [204, 204, 429, 429, 204 if name else 429]


def test_more_files_fit_where_they_are_small(streamlit, monkeypatch):
    monkeypatch.setattr(middleware, "MAX_BYTES", 20)

    async def bring():
        return [await streamlit.ask("ada", f"tab/{n}", size=4) for n in range(11)]

    assert asyncio.run(bring()) == [204] * 10 + [429]


def test_files_that_arrive_count_and_one_more_is_refused_until_one_is_here(streamlit):
    async def bring():
        arrived = asyncio.Event()
        ask = streamlit.ask
        slow = [
            asyncio.create_task(ask("ada", f"tab/{n}", arrived=arrived))
            for n in range(MAX_FILES)
        ]
        await asyncio.sleep(0)
        assert await ask("ada", "tab/more") == 429
        assert await ask("bob", "other/his") == 204
        arrived.set()
        assert await asyncio.gather(*slow) == [204] * MAX_FILES

    asyncio.run(bring())
    assert streamlit.held() == ["other/his", "tab/0", "tab/1"]


def test_a_closed_page_leaves_nothing_and_what_arrives_after_it_neither(streamlit):
    async def close():
        for path in ("second-tab/kept", "tab/left"):
            await streamlit.ask("ada", path)
        del streamlit.pages["tab"]
        await streamlit.ask("ada", kind="websocket")
        assert streamlit.held() == ["second-tab/kept"]
        arrived = asyncio.Event()
        late = asyncio.create_task(
            streamlit.ask("ada", "second-tab/late", arrived=arrived)
        )
        await asyncio.sleep(0)
        del streamlit.pages["second-tab"]
        arrived.set()
        await late

    asyncio.run(close())
    assert streamlit.held() == []


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


@pytest.mark.parametrize(
    "address",
    ["127.0.0.2", "::1", "localhost", "0.0.0.0", "192.168.0.9", "example.org", None],
)
def test_without_a_login_it_listens_on_loopback_alone(options, address):
    options["server.address"] = address
    if address in ("127.0.0.2", "::1", "localhost"):
        assert middleware.checked_serving_rules() is None
    else:
        assert "there is no login" in refused()


def test_with_a_login_it_listens_anywhere_and_streamlit_knows_the_public_name(
    configured, options, monkeypatch
):
    configured('login = "header"')
    assert refused().startswith("SparseDash is not served.")
    configured(HEADER)
    for value in ("127.0.0.1", "*"):
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", value)
        assert "FORWARDED_ALLOW_IPS" in refused()
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")
    options["server.address"] = "0.0.0.0"
    assert middleware.checked_serving_rules().login == "header"
    assert options["server.allowedHosts"] == [
        "sparse.example.org",
        "localhost",
        "127.0.0.1",
    ]
    # A session is given back to its user alone.
    assert list(options["server.trustedUserHeaders"]) == [login.USER_HEADER]


@pytest.mark.parametrize("provider", ["", "work"])
def test_a_provider_of_logins_is_described_whole(configured, provider):
    def auth(**changes):
        values = AUTH | changes
        if not provider:
            return values
        shared = {name: values.pop(name) for name in ("redirect_uri", "cookie_secret")}
        return shared | {provider: values}

    rules = OIDC + (f'[oidc]\nprovider = "{provider}"\n' if provider else "")
    configured(rules, auth())
    assert middleware.checked_serving_rules().login == "oidc"
    for changes, problem in (
        ({"client_id": ""}, "client_id"),
        ({"client_secret": ""}, "client_secret"),
        ({"server_metadata_url": ""}, "server_metadata_url"),
        ({"cookie_secret": "short"}, "32"),
        ({"redirect_uri": "http://x"}, "8501/oauth2callback"),
    ):
        configured(rules, auth(**changes))
        assert problem in refused()
