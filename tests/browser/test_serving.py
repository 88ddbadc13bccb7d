"""Serving others, in a real browser, with a provider of logins on loopback: every page, visitor and way in."""

import json
import re
import socketserver
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sparsedash.ui.navigation import TITLES
from tests.browser import others
from tests.browser.others import Provider, fill, log_in, serve
from tests.browser.raw import Raw
from tests.browser.served import DEADLINE_S, Server, bring

STREAM = "/_stcore/stream"
OF_A_RUN = ("overview", "compare", "layers", "models")
"""Pages that show the run that the address names."""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The server, whose visitors' runs are in `keys`."""
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
    """The cookies of each visitor who has logged in."""
    found = {}
    for name in (*others.NAMES, "root"):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{house.address}/jobs")
        log_in(page, name)
        page.wait_for_selector("h1.sd-opening")
        found[name] = context.storage_state()
        context.close()
    return found


@pytest.fixture
def visit(browser, house, states):
    """Opens pages of the server as one of its visitors."""
    with ExitStack() as at_the_end:

        def visited(name):
            context = browser.new_context(storage_state=states[name], viewport={"width": 1440, "height": 1000})
            at_the_end.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(1000 * DEADLINE_S)
            return page

        yield visited


def ready(page):
    page.wait_for_selector("h1.sd-opening")
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def fetched(address, **headers):
    """Status and body of a request by nobody's browser."""
    asked = urllib.request.Request(address, headers={name.replace("_", "-"): each for name, each in headers.items()})
    try:
        with urllib.request.urlopen(asked, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def cookies(state):
    return "; ".join(f"{each['name']}={each['value']}" for each in state["cookies"])


def test_a_deep_link_leads_through_the_login_to_what_it_names(page, house):
    page.goto(f"{house.address}/compare?run={house.keys['ada']}&points=2")
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()
    assert "model-of" not in page.content()
    log_in(page, "ada")
    ready(page)
    assert page.url.startswith(f"{house.address}/compare?run={house.keys['ada']}")
    expect(page.get_by_text("model-of-ada").first).to_be_visible()
    expect(page.get_by_text("ada@example.org")).to_be_visible()


def test_who_logs_out_is_asked_again(page, house):
    page.goto(f"{house.address}/runs")
    log_in(page, "bob")
    ready(page)
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name="End session").click()
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()
    page.goto(f"{house.address}/runs")
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()


def test_a_login_that_is_denied_asks_again_and_goes_round_in_no_circle(page, house):
    page.goto(f"{house.address}/runs")
    page.get_by_role("link", name="Log in").click()
    page.get_by_role("button", name="Deny").click()
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()


def test_who_is_not_on_the_list_is_told_so(page, house):
    page.goto(f"{house.address}/runs")
    log_in(page, "eve")
    expect(page.get_by_role("heading", name="This is not open to you.")).to_be_visible()
    expect(page.get_by_text("eve@example.org")).to_be_visible()


@pytest.mark.parametrize("path", ["", *TITLES])
def test_without_a_login_no_page_says_anything(path, page, house):
    page.goto(f"{house.address}/{path}?run={house.keys['ada']}")
    expect(page.get_by_role("heading", name="Please log in.")).to_be_visible()
    assert "model-of" not in page.content()


@pytest.mark.parametrize("name", ["", *TITLES])
@pytest.mark.parametrize(("visitor", "sees"), [("ada", True), ("bob", False), ("root", True)])
def test_a_deep_link_shows_a_run_to_its_owner_and_to_administrators(name, visitor, sees, visit, house):
    page = visit(visitor)
    page.goto(f"{house.address}/{name}?run={house.keys['ada']}")
    ready(page)
    shown = page.locator("body").inner_text()
    if not sees:
        assert "model-of-ada" not in shown
    elif name in OF_A_RUN or name in ("", "runs"):
        assert "model-of-ada" in shown
    assert page.locator("[data-testid=stException]").count() == 0


@pytest.mark.parametrize(("visitor", "other"), [("ada", "bob"), ("bob", "ada")])
def test_the_menu_leads_to_one_s_own(visitor, other, visit, house):
    page = visit(visitor)
    page.goto(house.address)
    ready(page)
    for title in TITLES.values():
        page.locator(".st-key-menu").get_by_role("link", name=title, exact=True).click()
        expect(page).to_have_title(re.compile(f"^{title}"))
        ready(page)
        assert f"model-of-{other}" not in page.locator("body").inner_text()
    page.goto(f"{house.address}/runs")
    expect(page.get_by_role("link", name=f"org/model-of-{visitor}")).to_be_visible()


def test_a_download_is_its_visitor_s_alone(visit, house, states):
    page = visit("ada")
    page.goto(f"{house.address}/overview?run={house.keys['ada']}")
    ready(page)
    page.locator("summary").filter(has_text="The numbers as a table").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).first.click()
    address = download.value.url
    assert urlsplit(address).path.startswith("/media/")
    assert download.value.suggested_filename.endswith(".csv")
    assert fetched(address)[0] == 401
    assert fetched(address, Cookie=cookies(states["bob"]))[0] == 404
    assert fetched(address, Cookie=cookies(states["root"]))[0] == 404
    status, lines = fetched(address, Cookie=cookies(states["ada"]))
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
    ada, bob = (Raw(house.address, cookies(states[name])) for name in ("ada", "bob"))
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
            assert fetched(f"{house.address}{path}", Host=host, Cookie=own)[0] == 403
    assert fetched(f"{house.address}/health", Host="evil.example")[0] == 403


def test_the_health_is_one_word_and_in_detail_for_who_has_logged_in(house, states):
    assert json.loads(fetched(f"{house.address}/health")[1]) == {"status": "ok"}
    detailed = json.loads(fetched(f"{house.address}/health", Cookie=cookies(states["bob"]))[1])
    assert {"version", "running", "queued"} <= set(detailed)


@pytest.mark.parametrize("what", ["model", "text"])
def test_files_outside_of_the_listed_folders_are_refused_on_the_form(what, visit, house):
    allowed = house.folder.parent / "allowed"
    allowed.mkdir(exist_ok=True)
    (house.folder.parent / "outside.txt").write_text("a secret text")
    link = allowed / "link.txt"
    if not link.is_symlink():
        link.symlink_to(house.folder.parent / "outside.txt")
    named = {"model": ["/etc", str(house.folder)], "text": ["file:/etc/passwd", f"file:{link}"]}[what]
    page = visit("bob")
    for reference in named:
        page.goto(f"{house.address}/prune?{what}={reference}")
        ready(page)
        expect(page.get_by_text("are read only below").first).to_be_visible()
        expect(page.get_by_role("button", name="Start", exact=False).first).to_be_disabled()
        assert "secret text" not in page.content()


class Foreign(BaseHTTPRequestHandler):
    """A page of another port of this machine, which tries to drive the dashboard."""

    target = ""

    def do_GET(self):
        script = (
            f"const opened = new WebSocket('{self.target}'); opened.onopen = () => document.title = 'open';"
            "opened.onerror = () => document.title = 'refused'"
        )
        body = f"<!doctype html><title>trying</title><script>{script}</script>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        return


@pytest.fixture
def foreign():
    """The address of that page."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Foreign) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_address[1]}/"
        served.shutdown()
        thread.join()


def test_a_page_of_another_port_drives_neither_a_server_that_serves_others_nor_one_that_does_not(
    visit, page, house, foreign, start_server, tmp_path
):
    Foreign.target = f"{house.address.replace('http', 'ws')}{STREAM}"
    logged_in = visit("ada")
    logged_in.goto(foreign)
    expect(logged_in).to_have_title("refused")
    alone = start_server(tmp_path / "data")
    for name in ("127.0.0.1", "localhost"):
        Foreign.target = f"{alone.replace('http', 'ws').replace('127.0.0.1', name)}{STREAM}"
        page.goto(foreign)
        expect(page).to_have_title("refused")


def text(name):
    return {"name": name, "mimeType": "text/plain", "buffer": f"Once upon a time there was {name}.".encode()}


def test_an_upload_counts_as_its_visitor_s_and_one_too_many_is_refused(visit, house):
    page, other = visit("ada"), visit("bob")
    bring(page, house.address, text("first.txt"))
    expect(page.get_by_role("combobox", name="Passages to answer")).to_have_value(re.compile("^upload:first.txt"))
    bring(page, house.address, text("second.txt"))
    expect(page.get_by_text("You have 1 uploads")).to_be_visible()
    other.goto(page.url)
    ready(other)
    expect(other.get_by_text("Uploaded texts")).to_have_count(0)


def test_without_a_login_the_server_listens_nowhere_but_on_loopback(tmp_path):
    server = Server(tmp_path / "data", "--server.address", "0.0.0.0")
    assert server.process.wait(DEADLINE_S) != 0
    assert "there is no login" in server.log.read_text()
