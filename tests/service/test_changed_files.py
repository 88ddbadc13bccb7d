"""A file that a run reads and that has changed makes another request, in whatever way it was
changed.
"""

import json
import os
from dataclasses import replace

import pytest

from sparsedash.catalog.model_sizes import CONFIGS
from sparsedash.schema.settings import EvaluationSettings
from tests.engine.tasks.task_folder import MULTIPLE_CHOICE, write_task
from tests.service.made import SETTINGS

BEFORE = "passage"
AFTER = "chapter"
"""Of one length."""
TEXT = "\n\n".join(f"{BEFORE} {n} has a last word" for n in range(9))


def with_data(folder):
    """A task whose data lie in a subfolder of its own, and that file."""
    reference = write_task(
        folder,
        "mine",
        **MULTIPLE_CHOICE | {"dataset_kwargs": {"data_files": "data/mc.jsonl"}},
    )
    (folder / "data").mkdir()
    data = folder / "data" / "mc.jsonl"
    data.write_text(json.dumps({"question": BEFORE, "choices": ["a", "b"], "label": 0}))
    return {"tasks": (reference,)}, data


def with_yaml(folder):
    reference = write_task(
        folder, "mine", [TEXT], **MULTIPLE_CHOICE | {"description": BEFORE}
    )
    return {"tasks": (reference,)}, folder / "mine.yaml"


def with_text(folder):
    (folder / "a.txt").write_text(TEXT)
    return {"corpus": f"file:{folder / 'a.txt'}"}, folder / "a.txt"


def with_weights(folder):
    (folder / "config.json").write_text((CONFIGS / "llama-7b.json").read_text())
    (folder / "model.safetensors").write_text(BEFORE)
    return {"model": str(folder)}, folder / "model.safetensors"


KINDS = {
    "data": with_data,
    "yaml": with_yaml,
    "text": with_text,
    "weights": with_weights,
}


def request(kind, folder):
    """Settings that name such a file, and the file."""
    named, file = KINDS[kind](folder)
    calibration = replace(SETTINGS.calibration, n_samples=256)
    settings = replace(
        SETTINGS, model=named.pop("model", SETTINGS.model), calibration=calibration
    )
    return replace(settings, evaluation=EvaluationSettings(**named)), file


def change(file, *, same_size=True, same_time=False):
    before = file.stat()
    text = file.read_text()
    assert BEFORE in text
    with file.open("r+") as opened:
        opened.write(text.replace(BEFORE, AFTER) + " " * (not same_size))
    if same_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "way", ["in place", "same size", "same time", "through a link", "in a subfolder"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_makes_another_request(backend, tmp_path, kind, way):
    folder = tmp_path / "named"
    if way == "through a link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to("elsewhere")
    elif way == "in a subfolder":
        folder = folder / "sub"
        folder.mkdir(parents=True)
    else:
        folder.mkdir()
    settings, file = request(kind, folder)
    first = backend.submit(settings)
    assert backend.submit(settings).id == first.id
    change(file, same_size=way != "in place", same_time=way != "same size")
    assert backend.submit(settings).key != first.key


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_was_written_again_with_the_same_content_makes_the_same_request(
    backend, tmp_path, kind
):
    (tmp_path / "named").mkdir()
    settings, file = request(kind, tmp_path / "named")
    first = backend.submit(settings)
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    os.utime(file, (1, 1))
    assert backend.submit(settings).id == first.id
