"""A server and a worker that share a data folder by their group.

As two users where root runs the tests and they may run this Python; else as one, who sees that all is the group's.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny

GROUP, SERVER, WORKER = 54_321, 54_322, 54_323
"""Numbers that no account here has: the kernel asks for no more."""

ASK = """
import json, sys
from pathlib import Path
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.backend import Backend
from sparsedash.service.deletion import Selection

backend = Backend(Path(sys.argv[1]))
text = backend.uploads.keep("text.jsonl", Path(sys.argv[3]).read_bytes())
settings = RunSettings(
    model=sys.argv[2],
    methods=(MethodSettings(width_multiple=8),),
    sparsities_permille=(250,),
    calibration=CalibrationSettings(corpus=text, n_samples=64, length=32),
    evaluation=EvaluationSettings(corpus=text, n_passages=6),
)
job = backend.submit(settings)
run = backend.run(job.key)
seen = {"state": job.state, "log": backend.log_tail(job.id) if job.state != "queued" else ""}
if job.state == "done":
    seen["n"] = len(backend.record(run.sparse[0]).outcomes)
    backend.housekeeping.delete(Selection(runs=(job.key,)))
    backend.uploads.drop(text)
    seen["left"] = [len(backend.runs()), len(backend.uploads.kept())]
print(json.dumps(seen))
backend.close()
"""


def all_may_run(path: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


TWO_USERS = os.getuid() == 0 and all(map(all_may_run, (Path(sys.executable).resolve(), Path(os.__file__).parent)))


@pytest.fixture
def place():
    """A folder that all may look into, with a data folder that is the group's in it."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    data = made / "data"
    data.mkdir()
    if TWO_USERS:
        os.chown(data, SERVER, GROUP)
    data.chmod(0o2770)
    yield made
    shutil.rmtree(made)


def of(user, place, *arguments):
    """What Python says with these arguments, as a process of this user."""
    ours = {"PYTHONPATH": str(Path(__file__).parents[2]), "SPARSEDASH_WORKERS": "0", "SPARSEDASH_LINGER_S": "0"}
    home = place / f"home-{user}"
    if not home.is_dir():
        home.mkdir()
        if TWO_USERS:
            os.chown(home, user, GROUP)
    switched = {"user": user, "group": GROUP, "extra_groups": []} if TWO_USERS else {}
    said = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **ours, "HOME": str(home), "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        **switched,
        umask=0o007,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert said.returncode == 0, said.stderr
    return said.stdout


def test_what_one_asks_for_the_other_does_and_the_first_can_read_and_delete(place):
    save_tiny(place / "tiny")
    write_jsonl(place / "text.jsonl", passages(60))
    ask = ("-c", ASK, str(place / "data"), str(place / "tiny"), str(place / "text.jsonl"))
    assert json.loads(of(SERVER, place, *ask))["state"] == "queued"
    of(WORKER, place, "-m", "sparsedash.worker", "--data-dir", str(place / "data"))
    modes = {path: path.stat().st_mode & 0o777 for path in (place / "data").rglob("*")}
    assert len(modes) > 10
    for path, mode in modes.items():
        assert mode in ((0o770,) if path.is_dir() else (0o660,)), f"{path} is {mode:o}"
    seen = json.loads(of(SERVER, place, *ask))
    assert (seen["state"], seen.get("n")) == ("done", 6), seen["log"]
    assert seen["left"] == [0, 0]
    assert (place / "data").stat().st_mode & 0o7777 == 0o2770
