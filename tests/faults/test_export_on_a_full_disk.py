"""An export onto a disk that fills up while it is written: said in words, and nothing is left of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.conftest import passages, write_jsonl
from tests.engine.tiny import save_tiny
from tests.faults.test_full_disk import ROOT, disk  # noqa: F401 - a fixture

pytestmark = [pytest.mark.faults, pytest.mark.long]

PROGRAM = """
import json, sys
from pathlib import Path
from sparsedash.engine.export import export as module
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.schema.errors import ExportError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.storage.store import Store
from tests.faults.full_disk import Filler, asked

disk, data, model, text = map(Path, sys.argv[1:])
store, shelf = Store(data), ModelShelf()
run = pipeline.run(asked(str(model), text), store, shelf=shelf)
settings = ExportSettings(dense=run.dense, sparse=run.sparse[0], form="padded", to=str(disk / "out"))
said = []
for begin in ("write", "prove"):
    filler = Filler(disk, begin)
    module.require_room = lambda *_: None  # as where somebody else takes the room meanwhile
    try:
        module.export_model(settings, store, shelf, filler)
    except ExportError as error:
        said.append(error.message)
    filler.remove()
    said.append(sorted(path.name for path in disk.iterdir()))
said.append(module.export_model(settings, store, shelf, lambda step: None).proof.holds)
print(json.dumps(said))
"""


def test_a_disk_that_fills_up_is_said_and_nothing_is_left(disk, tmp_path):  # noqa: F811
    text = write_jsonl(tmp_path / "passages.jsonl", passages(40))
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-P", str(program), str(disk), str(tmp_path / "data")]
    command += [str(save_tiny(tmp_path / "tiny")), str(text)]
    environment = os.environ | {"PYTHONPATH": str(Path(ROOT))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    written, left, proven, left_again, holds = json.loads(done.stdout.splitlines()[-1])
    for said in (written, proven):
        assert "could not be written" in said and f"MB are free where {disk}" in said
    assert (left, left_again, holds) == ([], [], True)
