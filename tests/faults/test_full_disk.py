"""A disk that is full or may only be read: said in words, nothing half-done is kept, and with room
it goes on.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.errors import SparseDashError, StoreError
from sparsedash.schema.progress import Step
from sparsedash.service.backend import Backend
from sparsedash.storage.store import Store
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny
from tests.engine.tiny_gguf import write_tiny_gguf
from tests.faults.full_disk import STAGES, Filler

pytestmark = pytest.mark.faults

PROGRAM = Path(__file__).with_name("full_disk.py")
ROOT = Path(__file__).parents[2]


def mounted(folder: Path, *options: str) -> None:
    done = subprocess.run(
        ["mount", *options, str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A disk of 32 MB of its own."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root of a Linux can mount a disk that is soon full")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted(folder, "-t", "tmpfs", "-o", "size=32m", "tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.long
def test_a_disk_that_is_full_at_any_stage_is_said_and_with_room_the_numbers_are_the_same(
    disk, tmp_path
):
    text = write_jsonl(tmp_path / "passages.jsonl", passages(40))
    models = (
        str(write_tiny_gguf(tmp_path / "tiny.gguf")),
        str(save_tiny(tmp_path / "tiny")),
    )
    command = [sys.executable, "-P", str(PROGRAM), str(disk), *models, str(text)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert list(results) == [*STAGES, "continue", "write", "prove"]
    for stage, (messages, same) in results.items():
        assert messages, f"{stage}: nothing was said"
        message, advice = messages  # Nothing is left of an export.
        assert f"MB are free for {disk}" in message, stage
        assert advice.startswith("Free some space. Finished models are kept"), stage
        assert same, stage


def test_a_job_table_on_a_full_disk_says_so_and_goes_on_with_room(disk):
    table = JobTable(disk / "jobs.sqlite")
    job = table.submit("run", "a", {})
    filler = Filler(disk, "evaluate")
    filler(Step("evaluate", 0, 1))
    with pytest.raises(StoreError, match="full"):
        for number in range(1000):
            table.submit("run", f"b{number}", {"prompt": "x" * 5000})
    assert table.get(job.id) == job
    filler.remove()
    table.submit("run", "c", {"prompt": "x" * 5000})
    table.close()


def test_a_data_folder_that_may_only_be_read_is_said_in_words(disk, monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")
    backend = Backend(disk / "data")
    backend.close()
    mounted(disk, "-o", "remount,ro")
    for opened in (
        Store,
        Backend,
        lambda folder: JobTable(folder / "jobs.sqlite").submit("run", "a", {}),
    ):
        with pytest.raises(
            SparseDashError, match=r"cannot be used: (unable to open|attempt to write)"
        ):
            opened(disk / "data")
