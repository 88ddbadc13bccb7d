"""A real worker is refused by a hub that repeats the token it was sent; the token gets nowhere."""

import signal
from pathlib import Path

from sparsedash.schema.errors import HIDDEN
from sparsedash.storage.serving import serving_rules
from tests.engine.hub_client import environment
from tests.engine.hub_stand_in import Hub
from tests.engine.tiny import save_tiny, small_run
from tests.jobs.conftest import ended, workers

TOKEN = "hf_secretsecretsecret"


def test_a_token_that_a_hub_repeats_is_kept_nowhere_and_a_visitor_s_job_goes_without_it(
    backend, text, tmp_path, monkeypatch
):
    hub = Hub()
    rules = tmp_path / "serve.toml"
    rules.write_text(
        f'address = "https://localhost"\nlogin = "oidc"\nadministrators = ["root"]\nfolders = ["{tmp_path}"]\n'
    )
    tiny = save_tiny(tmp_path / "tiny")
    hub.add("models", "maker/tiny", tiny)
    served = {"HF_TOKEN": TOKEN, "SPARSEDASH_SERVE": str(rules)}
    for name, value in (environment(hub.url, tmp_path / "home") | served).items():
        monkeypatch.setenv(name, value)
    for status, user, url, body in (
        (401, "root", small_run("maker/other", text), f"Bearer {HIDDEN}"),
        (403, "bob", small_run("maker/refused", text), "Authorization: None"),
        # The hub did repeat it, and the client's error did hold it: else this test would show
        # nothing.
        (
            500,
            "root",
            small_run("maker/broken", text),
            f"Authorization: Bearer {HIDDEN}",
        ),
        (403, "root", small_run(tiny, text, calibration="pile-10k"), ""),
        (0, "root", small_run("maker/tiny", text), ""),
    ):
        hub.refuses_with = status
        job = ended(backend, backend.seen_by(user, serving_rules()).submit(url))
        log = Path(job.log_path).read_text()
        assert (job.state, TOKEN in repr(job), body in log) == (
            "failed" if status else "done",
            False,
            True,
        ), log
    (worker,) = workers(backend)
    worker.send_signal(signal.SIGSEGV)
    worker.wait(30)
    hub.stop()
    assert (
        "Fatal Python error: Segmentation fault"
        in (backend.data_dir / "logs" / "slot-0.log").read_text()
    )
    files = [path for path in backend.data_dir.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
