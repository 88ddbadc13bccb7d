"""Serving others: logins by a provider on loopback, whose run is whose, and nginx with TLS in
front.
"""

import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import trustme
from playwright.sync_api import expect

from sparsedash.ui.navigation import TITLES
from tests.browser.logins import Provider, RawUser, fill, log_in, serve
from tests.browser.served import (
    DEADLINE_S,
    ROOT,
    Server,
    download,
    free_port,
    press,
    ready,
    upload_text,
)
from tests.faults.server_process import eventually

OF_A_RUN = ("", "compare", "models", "runs")
"""Pages that show the run that the address names."""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The server, whose users' runs are in `keys`; `users` are without a browser."""
    with ExitStack() as at_the_end:
        folder = tmp_path_factory.mktemp("others") / "data"
        keys = fill(folder)
        provider = Provider()
        at_the_end.callback(provider.stop)
        server = serve(folder, provider)
        at_the_end.callback(server.stop)
        server.keys = keys
        server.users = {
            name: RawUser(server.address, name) for name in ("ada", "bob", "root")
        }
        yield server


def test_a_deep_link_leads_through_the_login_to_its_page_and_its_files_and_logging_out_ends_it(
    open_page, house
):
    page = open_page()
    query = re.compile("Please log in.")
    deep_link = f"{house.address}/compare?run={house.keys['ada']}&limits=1.1"
    page.goto(deep_link)
    expect(page.get_by_role("heading", name=query)).to_be_visible()
    assert "model-of" not in page.content()
    page.get_by_role("link", name="Log in").click()
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("heading", name=query)).to_be_visible()
    page.goto(deep_link)
    log_in(page, "ada")
    ready(page)
    assert page.url.startswith(deep_link.partition("&")[0])
    expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(
        re.compile("model-of-ada")
    )
    expect(page.get_by_text("ada@example.org")).to_be_visible()
    file, _, address = download(page, "CSV", exact=True)
    assert urlsplit(address).path.startswith("/media/") and file.endswith(".csv")
    for name, status in (("ada", 200), ("bob", 404), ("root", 404)):
        assert house.users[name].get(address)[0] == status
    assert RawUser(house.address).get(address)[0] == 401
    press(page, "Log out")
    page.get_by_role("button", name="End session").click()
    expect(page.get_by_role("heading", name=query)).to_be_visible()
    page.goto(f"{house.address}/runs")
    log_in(page, "eve")
    expect(page.get_by_role("heading", name="You have no access.")).to_be_visible()
    expect(page.get_by_text("eve@example.org")).to_be_visible()


def test_a_deep_link_shows_a_run_to_its_owner_and_to_administrators_alone(house):
    for path in ("", *TITLES):
        query = f"run={house.keys['ada']}"
        status, body = RawUser(house.address).get(
            f"/{path}?{query}", Accept="text/html"
        )
        assert status == 401 and "Please log in." in body and "model-of" not in body, (
            path
        )
        assert "model-of-ada" not in house.users["bob"].shown(path, query), path
        if path in OF_A_RUN:
            assert all(
                "model-of-ada" in house.users[name].shown(path, query)
                for name in ("ada", "root")
            ), path
    assert "model-of-bob" in house.users["bob"].shown("runs")


def test_a_websocket_opens_for_who_has_logged_in_from_the_server_s_own_pages(house):
    ada = house.users["ada"]
    nobody = RawUser(house.address)
    assert ada.connects() and not nobody.connects()
    assert not ada.connects(
        Cookie=ada.headers["Cookie"].replace("_streamlit_user=", "_streamlit_user=x")
    )
    for origin in ("http://127.0.0.1:9", "https://evil.example", "null"):
        assert not ada.connects(Origin=origin)


def test_a_session_s_id_is_of_no_use_to_another_visitor(house):
    ada = house.users["ada"]
    bob = house.users["bob"]
    # Without its token Streamlit reads no login, so that to itself both would be the same nobody.
    with ada.session(xsrf=False) as session:
        for method in ("PUT", "DELETE"):
            assert bob.upload(session, "file", method=method) == 404
        with bob.session(session, xsrf=False) as bobs_session:
            assert bobs_session != session
        assert ada.upload(session, "file") == 204, "it is connected still"
    with bob.session(session, xsrf=False) as bobs_session:
        assert bobs_session != session
    with ada.session(session, xsrf=False) as same_session:
        assert same_session == session


NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
WHOLE = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/cert.pem;
    ssl_certificate_key {folder}/key.pem;
    auth_basic "SparseDash";
    auth_basic_user_file {folder}/people;
    {location}
  }}
}}
"""


def location_of_the_docs() -> str:
    """The block that docs/deployment.md shows."""
    return (
        (ROOT / "docs" / "deployment.md")
        .read_text()
        .split("```nginx\n")[1]
        .split("```")[0]
    )


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """The server behind nginx. proxy: where nginx answers."""
    if NGINX is None:
        pytest.skip(
            "nginx is not installed: the set-up of docs/deployment.md is not tried"
        )
    with ExitStack() as at_the_end:
        folder = tmp_path_factory.mktemp("proxied")
        keys = fill(folder / "data")
        port = free_port()
        rules = folder / "serve.toml"
        rules.write_text(f'address = "https://localhost:{port}"\nlogin = "header"\n')
        server = Server(
            folder / "data",
            SPARSEDASH_SERVE=str(rules),
            SPARSEDASH_WORKERS="0",
            FORWARDED_ALLOW_IPS="",
        )
        at_the_end.callback(server.stop)
        server.wait()
        issued = trustme.CA().issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        issued.private_key_pem.write_to_path(folder / "key.pem")
        (folder / "people").write_text("ada@example.org:{PLAIN}open\n")
        # Started by root it would work as somebody who may not read this folder.
        user = "user root;" if os.getuid() == 0 else ""
        location = location_of_the_docs().replace(
            "http://127.0.0.1:8501", server.address
        )
        (folder / "nginx.conf").write_text(
            WHOLE.format(
                folder=folder,
                port=port,
                location=location,
                user=user,
            )
        )
        nginx = subprocess.Popen(
            [NGINX, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        )
        at_the_end.callback(nginx.wait, DEADLINE_S)
        at_the_end.callback(nginx.terminate)
        eventually((folder / "nginx.pid").is_file)
        server.proxy = f"https://localhost:{port}"
        server.keys = keys
        yield server


@pytest.fixture
def behind_nginx(open_page):
    """A page whose browser answers the proxy's question for a password."""
    return open_page(
        ignore_https_errors=True,
        http_credentials={"username": "ada@example.org", "password": "open"},
    )


def test_runs_uploads_and_downloads_pass_through_the_proxy_and_nothing_past_it(
    behind_nginx, proxied
):
    page = behind_nginx
    text = {
        "name": "mine.txt",
        "mimeType": "text/plain",
        "buffer": b"\n\n".join(b"This was door %d" % n for n in range(5)),
    }
    upload_text(page, proxied.proxy, text)
    expect(page.get_by_role("combobox", name="Passages to evaluate on")).to_have_value(
        re.compile("^upload:mine.txt")
    )
    page.goto(f"{proxied.proxy}/overview?run={proxied.keys['bob']}")
    ready(page)
    assert "model-of-bob" not in page.locator("body").inner_text()
    page.goto(f"{proxied.proxy}/overview?run={proxied.keys['ada']}")
    ready(page)
    expect(page.get_by_text("model-of-ada").first).to_be_visible()
    expect(page.get_by_text("ada@example.org")).to_be_visible()
    page.locator("summary").filter(has_text="Numbers and intervals").click()
    assert download(page, "CSV", exact=True)[1].startswith(b'"model",')
    status, body = RawUser(proxied.address).get(
        "/jobs", **{"X-Forwarded-User": "ada@example.org"}
    )
    assert status == 403 and "Nothing is served under this name" in body
