"""A real worker is refused by a hub that repeats the token it was sent; the token gets nowhere."""

import contextlib
import json
import signal
import time
from pathlib import Path

import psutil
import pytest
from starlette.requests import Request
from streamlit.testing.v1 import AppTest

from sparsedash.reporting.record_pair import Pair
from sparsedash.reporting.run_reports import html_report, run_document
from sparsedash.reporting.run_results import run_results
from sparsedash.schema.errors import HIDDEN
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.storage.users import serving_rules
from sparsedash.ui import frame
from sparsedash.ui.server import health_route
from tests.engine.conftest import passages, write_jsonl
from tests.engine.hub_client import environment
from tests.engine.hub_stand_in import Hub
from tests.engine.tiny import save_tiny
from tests.ui.conftest import APP, markup

TOKEN = "hf_secretsecretsecret"
DEADLINE_S = 240.0


@pytest.fixture
def hub():
    served = Hub()
    yield served
    served.stop()


@pytest.fixture
def backend(tmp_path, hub, monkeypatch):
    for name, value in environment(hub.url, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SPARSEDASH_WORKERS", "1")
    backend = Backend(tmp_path / "data")
    yield backend
    for process in workers(backend):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait()
    backend.close()


def workers(backend):
    children = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in children if {"sparsedash.worker", str(backend.data_dir)} <= set(p.cmdline())]


def ended(backend, job):
    deadline = time.monotonic() + DEADLINE_S
    while backend.job(job.id).live:
        assert time.monotonic() < deadline, backend.log_tail(job.id)
        time.sleep(0.05)
    return backend.job(job.id)


def everything_shown(backend, monkeypatch) -> str:
    """What pages and the health route say about these jobs."""
    monkeypatch.setattr(frame, "backend", lambda: backend)
    shown = [health_route(Request({"type": "http"})).body.decode()]
    for page in ("overview", "jobs", "compare"):
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        app.switch_page(f"pages/{page}.py").run()
        assert not app.exception
        shown += [markup(app), str(app)]
    return "\n".join(shown)


def everything_taken_away(backend, job) -> str:
    """The report and the document of a finished run."""
    run = backend.run(job.key)
    dense, sparse = backend.record(run.dense), backend.record(run.sparse[0])
    pair = Pair(left_name="dense", left=dense, right_name="sparse", right=sparse)
    page = html_report(run_results(backend, run), pair, None).decode()
    return page + json.dumps(run_document(run, dense, [sparse]))


def files_with_token(folder):
    return [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


@pytest.fixture
def text(tmp_path):
    return f"file:{write_jsonl(tmp_path / 'passages.jsonl', passages(60))}"


def settings_of(model, text, calibration=None):
    return RunSettings(
        model=model,
        methods=(MethodSettings(width_multiple=8),),
        sparsities_permille=(250,),
        calibration=CalibrationSettings(corpus=calibration or text, n_samples=64, length=32),
        evaluation=EvaluationSettings(corpus=text, n_passages=6),
    )


def test_a_token_that_a_hub_repeats_is_kept_and_shown_nowhere(backend, hub, text, tmp_path, monkeypatch):
    tiny = save_tiny(tmp_path / "tiny")
    for status in (401, 403, 404, 500):
        hub.refuses_with = status
        job = ended(backend, backend.submit(settings_of(f"maker/refused-{status}", text)))
        assert (job.state, TOKEN in repr(job)) == ("failed", False)
        # The hub did repeat it, and the client's error did hold it: else this test would show nothing.
        assert f"Bearer {HIDDEN}" in Path(job.log_path).read_text()
    hub.refuses_with = 403
    job = ended(backend, backend.submit(settings_of(str(tiny), text, calibration="pile-10k")))
    assert (job.state, TOKEN in repr(job)) == ("failed", False)
    hub.refuses_with = 0
    hub.add("models", "maker/tiny", tiny)
    job = ended(backend, backend.submit(settings_of("maker/tiny", text)))
    assert (job.state, TOKEN in repr(job)) == ("done", False), backend.log_tail(job.id)
    assert TOKEN not in everything_shown(backend, monkeypatch) + everything_taken_away(backend, job)

    (worker,) = workers(backend)
    worker.send_signal(signal.SIGSEGV)
    worker.wait(30)
    assert "Fatal Python error: Segmentation fault" in (backend.data_dir / "logs" / "slot-0.log").read_text()
    assert files_with_token(backend.data_dir) == []


def test_a_visitor_s_job_asks_the_hub_without_the_token_and_an_administrator_s_with_it(
    backend, hub, text, tmp_path, monkeypatch
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
