"""Serving others, in a browser: logins by a provider on loopback, whose run is whose, and nginx with TLS in front."""

import functools
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import trustme
from playwright.sync_api import expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sparsedash.ui.navigation import TITLES
from tests.browser import logins
from tests.browser.logins import Provider, RawUser, fill, log_in, serve
from tests.browser.served import DEADLINE_S, ROOT, Server, download, free_port, ready, upload_text
from tests.faults.house import eventually

STREAM = "/_stcore/stream"
OF_A_RUN = ("", "overview", "compare", "layers", "models", "runs")
"""Pages that show the run that the address names."""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The server, whose users' runs are in `keys`."""
    with ExitStack() as at_the_end:
        folder = tmp_path_factory.mktemp("others") / "data"
        keys = fill(folder)
        provider = Provider()
        at_the_end.callback(provider.stop)
        server = serve(folder, provider, f'folders = ["{folder.parent / "allowed"}"]\n[quota]\nuploads = 1\n')
        at_the_end.callback(server.stop)
        server.keys = keys
        yield server


@pytest.fixture(scope="module")
def states(browser, house):
    """The cookies of each user after login."""
    found = {}
    for name in (*logins.NAMES, "root"):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{house.address}/jobs")
        log_in(page, name)
        page.wait_for_selector("h1.sd-opening")
        found[name] = context.storage_state()
        context.close()
    return found


@pytest.fixture
def as_user(open_page, states):
    """Opens a page of the server as one of its users."""
    return lambda name: open_page(storage_state=states[name])


def fetch(address: str, **headers: str) -> tuple[int, str]:
    """Status and body of a request without a browser."""
    request = urllib.request.Request(address, headers={name.replace("_", "-"): each for name, each in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def cookies(state) -> str:
    return "; ".join(f"{each['name']}={each['value']}" for each in state["cookies"])


def test_a_deep_link_leads_through_the_login_to_its_page_and_logging_out_ends_it(page, house):
    page.goto(f"{house.address}/compare?run={house.keys['ada']}&points=2")
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()
    assert "model-of" not in page.content()
    page.get_by_role("link", name="Log in").click()
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()
    page.goto(f"{house.address}/compare?run={house.keys['ada']}&points=2")
    log_in(page, "ada")
    ready(page)
    assert page.url.startswith(f"{house.address}/compare?run={house.keys['ada']}")
    expect(page.get_by_text("model-of-ada").first).to_be_visible()
    expect(page.get_by_text("ada@example.org")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name="End session").click()
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()
    page.goto(f"{house.address}/runs")
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()


def test_a_user_who_is_not_on_the_list_is_refused(page, house):
    page.goto(f"{house.address}/runs")
    log_in(page, "eve")
    expect(page.get_by_role("heading", name="This is not open to you.")).to_be_visible()
    expect(page.get_by_text("eve@example.org")).to_be_visible()


def test_without_a_login_no_page_says_anything(house):
    for path in ("", *TITLES):
        status, body = fetch(f"{house.address}/{path}?run={house.keys['ada']}", Accept="text/html")
        assert status == 401 and "Please log in." in body and "model-of" not in body, path


@pytest.mark.parametrize(("user", "sees"), [("ada", True), ("bob", False), ("root", True)])
def test_a_deep_link_shows_a_run_to_its_owner_and_to_administrators(user, sees, as_user, house):
    page = as_user(user)
    for path in ("", "compare", "runs") if user == "root" else ("", *TITLES):
        page.goto(f"{house.address}/{path}?run={house.keys['ada']}")
        ready(page)
        shown = page.locator("body").inner_text()
        assert sees or "model-of-ada" not in shown, path
        if sees and path in OF_A_RUN:
            assert "model-of-ada" in shown, path
        assert page.locator("[data-testid=stException]").count() == 0
    if user != "root":
        page.goto(f"{house.address}/runs")
        expect(page.get_by_role("link", name=f"org/model-of-{user}")).to_be_visible()


def test_a_download_belongs_to_its_user_alone(as_user, house, states):
    page = as_user("ada")
    page.goto(f"{house.address}/overview?run={house.keys['ada']}")
    ready(page)
    page.locator("summary").filter(has_text="The numbers as a table").click()
    ready(page)
    file, _, address = download(page, "CSV", exact=True)
    assert urlsplit(address).path.startswith("/media/") and file.endswith(".csv")
    assert fetch(address)[0] == 401
    for other in ("bob", "root"):
        assert fetch(address, Cookie=cookies(states[other]))[0] == 404
    status, lines = fetch(address, Cookie=cookies(states["ada"]))
    assert (status, lines.partition(",")[0]) == (200, '"Model"')


def opens(house, origin="", **headers):
    """Whether a WebSocket opens; from the server's own origin unless another one is named."""
    address = f"{house.address.replace('http', 'ws')}{STREAM}"
    try:
        with connect(address, origin=origin or house.address, additional_headers=headers, open_timeout=DEADLINE_S):
            return True
    except InvalidStatus as error:
        assert error.response.status_code == 403
        return False


def test_a_websocket_opens_for_who_has_logged_in_from_the_server_s_own_pages(house, states):
    own = {"Cookie": cookies(states["ada"])}
    assert opens(house, **own)
    assert not opens(house)
    assert not opens(house, Cookie=own["Cookie"].replace("_streamlit_user=", "_streamlit_user=x"))
    for origin in ("http://127.0.0.1:9", "http://localhost:8501", "https://evil.example", house.address + "0", "null"):
        assert not opens(house, origin, **own)


def test_a_session_s_id_is_of_no_use_to_another_visitor(house, states):
    ada, bob = (RawUser(house.address, cookies(states[name])) for name in ("ada", "bob"))
    # Without its token Streamlit reads no login, so that to itself both would be the same nobody.
    with ada.session(xsrf=False) as session:
        for method in ("PUT", "DELETE"):
            assert bob.upload(session, "file", method=method) == 404
        with bob.session(session, xsrf=False) as other:
            assert other != session
        assert ada.upload(session, "file") == 204, "it is connected still"
    with bob.session(session, xsrf=False) as other:
        assert other != session
    with ada.session(session, xsrf=False) as own:
        assert own == session


def test_a_foreign_host_is_refused_everywhere(house, states):
    own = cookies(states["ada"])
    for path in ("/", "/jobs", "/_stcore/health", "/media/x.csv", "/static/index.html"):
        for host in ("evil.example", "localhost:1", urlsplit(house.address).netloc + ".evil.example"):
            assert fetch(f"{house.address}{path}", Host=host, Cookie=own)[0] == 403
    assert fetch(f"{house.address}/health", Host="evil.example")[0] == 403


def test_the_health_is_one_word_and_in_detail_for_who_has_logged_in(house, states):
    assert json.loads(fetch(f"{house.address}/health")[1]) == {"status": "ok"}
    detailed = json.loads(fetch(f"{house.address}/health", Cookie=cookies(states["bob"]))[1])
    assert {"version", "running", "queued"} <= set(detailed)


@pytest.mark.parametrize("what", ["model", "text"])
def test_files_outside_of_the_listed_folders_are_refused_on_the_form(what, as_user, house):
    allowed = house.folder.parent / "allowed"
    allowed.mkdir(exist_ok=True)
    (house.folder.parent / "outside.txt").write_text("a secret text")
    link = allowed / "link.txt"
    if not link.is_symlink():
        link.symlink_to(house.folder.parent / "outside.txt")
    named = {"model": ["/etc", str(house.folder)], "text": ["file:/etc/passwd", f"file:{link}"]}[what]
    page = as_user("bob")
    for reference in named:
        page.goto(f"{house.address}/prune?{what}={reference}")
        ready(page)
        expect(page.get_by_text("are read only below").first).to_be_visible()
        expect(page.get_by_role("button", name="Start", exact=False).first).to_be_disabled()
        assert "secret text" not in page.content()


FOREIGN = """<!doctype html><title>trying</title><script>
const opened = new WebSocket('{stream}');
opened.onopen = () => document.title = 'open';
opened.onerror = () => document.title = 'refused';
</script>"""


def answer_with(body, route):
    route.fulfill(body=body, content_type="text/html")


def test_a_page_of_another_port_drives_neither_a_server_that_serves_others_nor_one_that_does_not(
    as_user, page, house, empty
):
    alone = empty.address.replace("127.0.0.1", "localhost")
    for visitor, address in ((as_user("ada"), house.address), (page, empty.address), (page, alone)):
        body = FOREIGN.replace("{stream}", f"{address.replace('http', 'ws')}{STREAM}")
        visitor.route("http://127.0.0.1:9/**", functools.partial(answer_with, body))
        visitor.goto("http://127.0.0.1:9/")
        expect(visitor).to_have_title("refused")


def text(name):
    return {"name": name, "mimeType": "text/plain", "buffer": f"Once upon a time there was {name}.".encode()}


def test_an_upload_counts_as_its_visitor_s_and_one_too_many_is_refused(as_user, house):
    page, other = as_user("ada"), as_user("bob")
    upload_text(page, house.address, text("first.txt"))
    expect(page.get_by_role("combobox", name="Passages to answer")).to_have_value(re.compile("^upload:first.txt"))
    upload_text(page, house.address, text("second.txt"))
    expect(page.get_by_text("Your uploads are limited to 1.")).to_be_visible()
    other.goto(page.url)
    ready(other)
    expect(other.get_by_text("Uploaded texts")).to_have_count(0)


def test_without_a_login_the_server_listens_nowhere_but_on_loopback(tmp_path):
    server = Server(tmp_path / "data", "--server.address", "0.0.0.0")
    assert server.process.wait(DEADLINE_S) != 0
    assert "there is no login" in server.log.read_text()


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
    return (ROOT / "docs" / "deployment.md").read_text().split("```nginx\n")[1].split("```")[0]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """The server behind nginx. proxy: where nginx answers."""
    if NGINX is None:
        pytest.skip("nginx is not installed: the set-up of docs/deployment.md is not tried")
    with ExitStack() as at_the_end:
        folder = tmp_path_factory.mktemp("proxied")
        keys = fill(folder / "data")
        port = free_port()
        rules = folder / "serve.toml"
        rules.write_text(f'address = "https://localhost:{port}"\nlogin = "header"\n')
        server = Server(folder / "data", SPARSEDASH_SERVE=str(rules), SPARSEDASH_WORKERS="0", FORWARDED_ALLOW_IPS="")
        at_the_end.callback(server.stop)
        server.wait()
        issued = trustme.CA().issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        issued.private_key_pem.write_to_path(folder / "key.pem")
        (folder / "people").write_text("ada@example.org:{PLAIN}open\n")
        # Started by root it would work as somebody who may not read this folder.
        user = "user root;" if os.getuid() == 0 else ""
        location = location_of_the_docs().replace("http://127.0.0.1:8501", server.address)
        (folder / "nginx.conf").write_text(WHOLE.format(folder=folder, port=port, location=location, user=user))
        nginx = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
        at_the_end.callback(nginx.wait, DEADLINE_S)
        at_the_end.callback(nginx.terminate)
        eventually((folder / "nginx.pid").is_file)
        server.proxy, server.keys = f"https://localhost:{port}", keys
        yield server


@pytest.fixture
def behind_nginx(open_page):
    """A page whose browser answers the proxy's question for a password."""
    return open_page(ignore_https_errors=True, http_credentials={"username": "ada@example.org", "password": "open"})


def test_runs_uploads_and_downloads_pass_through_the_proxy_and_nothing_past_it(behind_nginx, proxied):
    page = behind_nginx
    text = {"name": "mine.txt", "mimeType": "text/plain", "buffer": b"Once upon a time there was a door."}
    upload_text(page, proxied.proxy, text)
    expect(page.get_by_role("combobox", name="Passages to answer")).to_have_value(re.compile("^upload:mine.txt"))
    page.goto(f"{proxied.proxy}/overview?run={proxied.keys['bob']}")
    ready(page)
    assert "model-of-bob" not in page.locator("body").inner_text()
    page.goto(f"{proxied.proxy}/overview?run={proxied.keys['ada']}")
    ready(page)
    expect(page.get_by_text("model-of-ada").first).to_be_visible()
    expect(page.get_by_text("ada@example.org")).to_be_visible()
    page.locator("summary").filter(has_text="The numbers as a table").click()
    assert download(page, "CSV", exact=True)[1].startswith(b'"Model",')
    status, body = fetch(f"{proxied.address}/jobs", X_Forwarded_User="ada@example.org")
    assert status == 403 and "Nothing is served under this name" in body
