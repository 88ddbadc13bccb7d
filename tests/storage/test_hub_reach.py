"""Whether the hub answers, and which of its texts are out of reach without it."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from huggingface_hub import constants

from sparsedash.schema.store_keys import text_identity_note
from sparsedash.service.backend import Backend
from sparsedash.storage.hub_reach import HubReach
from tests.browser.served import free_port


@pytest.fixture
def refusing():
    """The address of a server that refuses every request: it answers."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_hub_answers_that_refuses_and_none_that_is_gone_or_not_to_be_asked(
    refusing, monkeypatch
):
    monkeypatch.setattr(BaseHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert HubReach(refusing).answers(3)
    assert not HubReach(f"http://127.0.0.1:{free_port()}").answers()
    assert not HubReach("").answers()


def test_a_text_of_the_hub_is_lacking_until_it_was_read_here(tmp_path):
    backend = Backend(tmp_path)
    backend._hub = HubReach("")
    assert backend.lacks_text("lambada_openai") and backend.lacks_text("c4")
    assert not any(map(backend.lacks_text, ("builtin:cloze", "self", "file:/no.txt")))
    backend._store.remember(text_identity_note("lambada_openai", ""), "sha256:1")
    assert not backend.lacks_text("lambada_openai")
    backend.close()
