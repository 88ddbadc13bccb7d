"""A real server with a token and a file of secrets answers without them."""

import urllib.error
import urllib.request

import pytest

from tests.browser.served import Server

WORDS = (
    "hf_secretsecretsecret",
    "client-word-of-the-provider",
    "cookie-word-of-the-server",
    "some-word-at-the-top",
)
SECRETS = """\
api_password = "{3}"
[auth]
redirect_uri = "http://127.0.0.1/oauth2callback"
cookie_secret = "{2}"
client_id = "sparsedash"
client_secret = "{1}"
server_metadata_url = "http://127.0.0.1:9/none"
"""
ROUTES = (
    "/health",
    "/",
    "/overview",
    "/runs",
    "/_stcore/health",
    "/_stcore/host-config",
    "/.streamlit/secrets.toml",
)


@pytest.fixture
def server(tmp_path):
    """Its address, and the file that it logs to."""
    secrets = tmp_path / "secrets.toml"
    secrets.write_text(SECRETS.format(*WORDS))
    server = Server(
        tmp_path / "data", "--secrets.files", str(secrets), HF_TOKEN=WORDS[0]
    )
    try:
        server.wait()
        yield server.address, server.log
    finally:
        server.stop()


def answer(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as response:
            return str(response.headers) + response.read().decode()
    except urllib.error.HTTPError as refused:
        return str(refused.headers) + refused.read().decode()


def test_no_answer_and_no_log_holds_a_secret(server, tmp_path):
    address, log = server
    answers = [answer(f"{address}/health")]
    assert '"ok"' in answers[0]
    answers += [answer(address + route) for route in ROUTES]
    kept = [
        path.read_bytes().decode(errors="replace")
        for path in (tmp_path / "data").rglob("*")
        if path.is_file()
    ]
    for word in WORDS:
        assert not [
            text for text in [*answers, *kept, log.read_text()] if word in text
        ], word
