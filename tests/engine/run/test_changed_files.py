"""A run whose files were changed in place, to the same size and time, computes anew."""

import os
import shutil
from dataclasses import replace

import pytest

from sparsedash.engine.run import pipeline
from sparsedash.schema.errors import ModelError
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from tests.engine.conftest import passages, write_jsonl
from tests.engine.tasks.task_folder import MULTIPLE_CHOICE, write_task
from tests.engine.tiny import save_tiny, small_run


def overwrite(file, content):
    """The same size and time of writing, another content."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (
        before.st_size,
        before.st_mtime_ns,
    )


@pytest.fixture
def files(tmp_path, model_folder):
    """One of each kind by name, and what it is changed to."""
    weights = shutil.copytree(model_folder, tmp_path / "model") / "model.safetensors"
    other_weights = (
        save_tiny(tmp_path / "other", seed=5) / "model.safetensors"
    ).read_bytes()
    text = write_jsonl(tmp_path / "a.jsonl", passages(12))
    write_task(
        tmp_path,
        "mine",
        passages(4),
        **MULTIPLE_CHOICE | {"description": "lamp"},
    )
    (tmp_path / "questions").mkdir()
    data = (tmp_path / "mine.jsonl").rename(tmp_path / "questions" / "mine.jsonl")
    task = tmp_path / "mine.yaml"
    task.write_text(task.read_text().replace("mine.jsonl", "questions/mine.jsonl"))
    changed = {
        file: file.read_bytes().replace(b"lamp", b"boat") for file in (text, data, task)
    }
    return {"weights": (weights, other_weights)} | {
        name: (file, changed[file])
        for name, file in (("text", text), ("data", data), ("yaml", task))
    }


@pytest.mark.parametrize("kind", ["weights", "text", "data", "yaml"])
def test_a_file_of_the_same_size_and_time_is_answered_anew(
    kind, files, passage_file, store, tmp_path
):
    pytest.importorskip("lm_eval")
    settings = small_run(
        tmp_path / "model",
        f"file:{tmp_path / 'a.jsonl'}",
        f"file:{passage_file}",
        prompts=(),
    )
    tasks = (f"file:{tmp_path / 'mine.yaml'}",)
    settings = replace(settings, evaluation=replace(settings.evaluation, tasks=tasks))
    before = pipeline.run(settings, store, ignore_steps)
    overwrite(*files[kind])
    after = pipeline.run(settings, store, ignore_steps)
    assert after.key != before.key
    if kind in ("weights", "text"):
        assert not set(after.records) & set(before.records)
    else:
        assert after.records == before.records
        assert after.answers[after.dense] != before.answers[before.dense]


def test_weights_that_change_while_a_model_is_evaluated_leave_no_record(
    files, passage_file, store, tmp_path
):
    settings = small_run(
        tmp_path / "model",
        f"file:{passage_file}",
        prompts=(),
    )

    def change(step):
        if step.stage == "evaluate" and step.done:
            overwrite(*files["weights"])

    with pytest.raises(ModelError, match="have changed while they were read"):
        pipeline.run(settings, store, change)
    assert list(store.keys(Record)) == []
