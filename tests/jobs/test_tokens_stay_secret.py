"""A real worker is refused by a hub that repeats the token it was sent; the token gets nowhere."""

import signal
from pathlib import Path

import pytest

from sparsedash.schema.errors import HIDDEN
from sparsedash.storage.users import serving_rules
from tests.engine.hub_client import environment
from tests.engine.hub_stand_in import Hub
from tests.engine.tiny import save_tiny
from tests.jobs.conftest import ended, settings_of, workers

TOKEN = "hf_secretsecretsecret"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that every backend of this test asks, with a token."""
    served = Hub()
    for name, value in environment(served.url, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield served
    served.stop()


def test_a_token_that_a_hub_repeats_is_kept_nowhere(hub, backend, text, tmp_path):
    tiny = save_tiny(tmp_path / "tiny")
    hub.add("models", "maker/tiny", tiny)
    for status in (401, 403, 404, 500):
        hub.refuses_with = status
        job = ended(backend, backend.submit(settings_of(f"maker/refused-{status}", text)))
        assert (job.state, TOKEN in repr(job)) == ("failed", False)
        # The hub did repeat it, and the client's error did hold it: else this test would show nothing.
        assert f"Bearer {HIDDEN}" in Path(job.log_path).read_text()
    for status, asked, state in (
        (403, settings_of(str(tiny), text, calibration="pile-10k"), "failed"),
        (0, settings_of("maker/tiny", text), "done"),
    ):
        hub.refuses_with = status
        job = ended(backend, backend.submit(asked))
        assert (job.state, TOKEN in repr(job)) == (state, False), backend.log_tail(job.id)
    (worker,) = workers(backend)
    worker.send_signal(signal.SIGSEGV)
    worker.wait(30)
    assert "Fatal Python error: Segmentation fault" in (backend.data_dir / "logs" / "slot-0.log").read_text()
    files = [path for path in backend.data_dir.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_a_visitor_s_job_asks_the_hub_without_the_token_and_an_administrator_s_with_it(
    hub, backend, text, tmp_path, monkeypatch
):
    rules = tmp_path / "serve.toml"
    rules.write_text(
        'address = "https://localhost"\nlogin = "oidc"\nadministrators = ["root"]\n' + f'folders = ["{tmp_path}"]\n'
    )
    monkeypatch.setenv("SPARSEDASH_SERVE", str(rules))
    hub.refuses_with = 403
    for visitor, sent in (("root", f"Bearer {HIDDEN}"), ("bob", "None"), ("root", f"Bearer {HIDDEN}")):
        seen = backend.seen_by(visitor, serving_rules())
        job = ended(backend, seen.submit(settings_of(f"maker/for-{visitor}", text)))
        said = Path(job.log_path).read_text()
        assert (job.state, f"Authorization: {sent}" in said) == ("failed", True), said
    assert len(workers(backend)) == 1, "one worker has done them all"
