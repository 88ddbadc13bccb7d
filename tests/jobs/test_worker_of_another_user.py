"""A server and a worker that share a data folder by their group: all that either makes is the
group's.
"""

import os

import pytest

from sparsedash import worker
from sparsedash.service.backend import Backend
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny, small_run


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A backend that starts no worker, on a folder of a group."""
    for name in ("WORKERS", "LINGER_S"):
        monkeypatch.setenv(f"SPARSEDASH_{name}", "0")
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o2770)
    before = os.umask(0o007)
    backend = Backend(data)
    yield backend
    backend.close()
    os.umask(before)


def test_what_one_asks_for_the_other_does_and_the_first_can_read_and_delete(
    shared, tmp_path, capfd
):
    text = shared.uploads.keep(
        "text.jsonl", write_jsonl(tmp_path / "text.jsonl", passages(60)).read_bytes()
    )
    job = shared.submit(small_run(save_tiny(tmp_path / "tiny"), text))
    assert worker.main(["--data-dir", str(shared.data_dir)]) == 0
    modes = {path: path.stat().st_mode & 0o777 for path in shared.data_dir.rglob("*")}
    assert len(modes) > 10
    for path, mode in modes.items():
        assert mode == (0o770 if path.is_dir() else 0o660), f"{path} is {mode:o}"
    assert shared.job(job.id).state == "done", shared.log_tail(job.id)
    assert len(shared.record(*shared.run(job.key).sparse).outcomes) == 10
    shared.housekeeping.delete_runs([job.key])
    shared.uploads.drop(text)
    assert (shared.runs(), shared.uploads.kept()) == ([], {})
    assert shared.data_dir.stat().st_mode & 0o7777 == 0o2770
