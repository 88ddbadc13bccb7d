"""Behind a real proxy with TLS that logs people in, set up as docs/deployment.md says.

Without nginx this is skipped, and says so.
"""

import datetime
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import expect

from tests.browser.others import fill
from tests.browser.served import DEADLINE_S, Server, bring, free_port

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed; what docs/deployment.md says of it is not tried"
)

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


def certificate(folder: Path) -> None:
    """A certificate of our own for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """The server behind nginx. proxy: where nginx answers."""
    with ExitStack() as at_the_end:
        folder = tmp_path_factory.mktemp("proxied")
        keys = fill(folder / "data")
        port = free_port()
        rules = folder / "serve.toml"
        rules.write_text(f'address = "https://localhost:{port}"\nlogin = "header"\n')
        server = Server(folder / "data", SPARSEDASH_SERVE=str(rules), SPARSEDASH_WORKERS="0", FORWARDED_ALLOW_IPS="")
        at_the_end.callback(server.stop)
        server.wait()
        certificate(folder)
        (folder / "people").write_text("ada@example.org:{PLAIN}open\n")
        # Started by root it would work as somebody who may not read this folder.
        user = "user root;" if os.getuid() == 0 else ""
        location = location_of_the_docs().replace("http://127.0.0.1:8501", server.address)
        (folder / "nginx.conf").write_text(WHOLE.format(folder=folder, port=port, location=location, user=user))
        nginx = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
        at_the_end.callback(nginx.wait, DEADLINE_S)
        at_the_end.callback(nginx.terminate)
        wait_for(folder / "nginx.pid")
        server.proxy, server.keys = f"https://localhost:{port}", keys
        yield server


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.is_file()


@pytest.fixture
def page(browser, proxied):
    people = {"username": "ada@example.org", "password": "open"}
    context = browser.new_context(ignore_https_errors=True, http_credentials=people)
    opened = context.new_page()
    opened.set_default_timeout(1000 * DEADLINE_S)
    yield opened
    context.close()


def test_a_deep_link_shows_one_s_own_run_through_the_proxy(page, proxied):
    page.goto(f"{proxied.proxy}/overview?run={proxied.keys['ada']}")
    page.wait_for_selector("h1.sd-opening")
    expect(page.get_by_text("model-of-ada").first).to_be_visible()
    expect(page.get_by_text("ada@example.org")).to_be_visible()
    page.goto(f"{proxied.proxy}/overview?run={proxied.keys['bob']}")
    page.wait_for_selector("h1.sd-opening")
    assert "model-of-bob" not in page.locator("body").inner_text()


def test_an_upload_and_a_download_pass_through_the_proxy(page, proxied):
    text = {"name": "mine.txt", "mimeType": "text/plain", "buffer": b"Once upon a time there was a door."}
    bring(page, proxied.proxy, text)
    expect(page.get_by_role("combobox", name="Passages to answer")).to_have_value(re.compile("^upload:mine.txt"))
    page.goto(f"{proxied.proxy}/overview?run={proxied.keys['ada']}")
    page.locator("summary").filter(has_text="The numbers as a table").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV", exact=True).first.click()
    assert Path(download.value.path()).read_text().startswith('"Model",')


def test_past_the_proxy_nothing_is_served_under_the_server_s_own_address(proxied):
    asked = urllib.request.Request(f"{proxied.address}/jobs", headers={"X-Forwarded-User": "ada@example.org"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=DEADLINE_S)
    assert refused.value.code == 403
    assert "Nothing is served under this name" in refused.value.read().decode()
