"""A real server with a token and a file of secrets answers without them."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.browser.served import free_port

ROOT = Path(__file__).parents[2]
WORDS = ("hf_secretsecretsecret", "client-word-of-the-provider", "cookie-word-of-the-server", "some-word-at-the-top")
SECRETS = """\
api_password = "{3}"
[auth]
redirect_uri = "http://127.0.0.1/oauth2callback"
cookie_secret = "{2}"
client_id = "sparsedash"
client_secret = "{1}"
server_metadata_url = "http://127.0.0.1:9/none"
"""
ROUTES = ("/health", "/", "/overview", "/jobs", "/_stcore/health", "/_stcore/host-config", "/.streamlit/secrets.toml")


@pytest.fixture
def server(tmp_path):
    """Its address, and the file that it logs to."""
    secrets = tmp_path / "secrets.toml"
    secrets.write_text(SECRETS.format(*WORDS))
    port = free_port()
    options = ("--server.port", str(port), "--secrets.files", str(secrets))
    environment = os.environ | {"SPARSEDASH_DATA_DIR": str(tmp_path / "data"), "HF_TOKEN": WORDS[0]}
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "streamlit", "run", "app.py", *options]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    yield f"http://127.0.0.1:{port}", log
    process.terminate()
    process.wait(60)


def answer(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=10) as response:
            return str(response.headers) + response.read().decode()
    except urllib.error.HTTPError as refused:
        return str(refused.headers) + refused.read().decode()


def test_no_answer_and_no_log_holds_a_secret(server, tmp_path):
    address, log = server
    deadline = time.monotonic() + 60
    while True:
        try:
            answers = [answer(f"{address}/health")]
            break
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    assert '"ok"' in answers[0]
    answers += [answer(address + route) for route in ROUTES]
    kept = [path.read_bytes().decode(errors="replace") for path in (tmp_path / "data").rglob("*") if path.is_file()]
    for word in WORDS:
        assert not [text for text in [*answers, *kept, log.read_text()] if word in text], word
