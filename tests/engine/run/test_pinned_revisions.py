"""A run reads the commits of the hub that it pins, whatever names lead to by then; the next one
reads the newer.
"""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline, run_context
from sparsedash.engine.run.model_making import rebuild_model
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import DATA_SET
from sparsedash.schema.store_keys import hub_commit_note
from sparsedash.storage.store import Store
from tests.engine.hub_layouts import save
from tests.engine.hub_texts import write_card
from tests.engine.tiny import source_of

MODEL = "owner/moving"
QUESTIONS = f"{DATA_SET}baber/piqa"


def serve_piqa(hub, folder, first):
    """A commit of the task's data set, which begins with this question."""
    rows = [
        {
            "goal": goal,
            "sol1": "the lamp",
            "sol2": "the boat",
            "label": i % 2,
        }
        for i, goal in enumerate(first)
    ]
    for split in ("train", "validation"):
        folder.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(rows), folder / f"{split}.parquet"
        )
    write_card(
        folder,
        "default",
        {"train": "train.parquet", "validation": "validation.parquet"},
    )
    return hub.add("datasets", "baber/piqa", folder).refs["main"]


@pytest.fixture
def shell(client, tmp_path, passage_file):
    """Runs `sparsedash run` on a model of the hub and returns its document. later: an hour after
    the last time.
    """

    def run(*more, later=()):
        folder = tmp_path / "data"
        out = tmp_path / "out.json"
        if later:
            store = Store(folder)
            for name in later:
                store.forget(hub_commit_note(name))
            store.close()
        flags = [
            *(
                "--model",
                MODEL,
                "--evaluation",
                f"file:{passage_file}",
                "--calibration",
                f"file:{passage_file}",
            ),
            *(
                "--passages",
                "8",
                "--calibration-samples",
                "40",
                "--calibration-length",
                "32",
            ),
            *(
                "--method",
                "wanda-channels",
                "--width-multiple",
                "8",
                "--sparsity",
                "25",
                "--prompt",
                "the",
            ),
        ]
        assert client.ask(
            shell=["run", *flags, *more, "--data-dir", str(folder), "--json", str(out)]
        ) == {"code": 0}
        return json.loads(out.read_text())

    return run


def test_a_task_whose_data_set_moved_is_answered_anew_and_one_that_is_pinned_is_not(
    hub, shell, tmp_path
):
    pytest.importorskip("lm_eval")
    hub.add("models", MODEL, save(tmp_path / "model", seed=1))
    task_flags = ("--tasks", "piqa", "--task-limit", "2")
    first = serve_piqa(hub, tmp_path / "first", ["the boat went", "the lamp went"])
    before = shell(*task_flags)
    assert before["revisions"][QUESTIONS] == first
    second = serve_piqa(
        hub, tmp_path / "second", ["the letter went home", "the lamp went"]
    )
    assert shell(*task_flags)["key"] == before["key"]
    after = shell(*task_flags, later=[QUESTIONS])
    assert after["revisions"][QUESTIONS] == second
    assert after["key"] != before["key"]
    hub.stop()
    gone = shell(*task_flags)
    hub.start()
    assert gone["key"] == after["key"], "without the hub, as last noted"


@pytest.mark.parametrize("commit", ["", "c" * 40])
def test_a_model_is_made_again_of_the_commit_that_its_record_read(
    settings, store, monkeypatch, commit
):
    run = pipeline.run(settings, store)
    record = store.get(Record, run.dense)
    if commit:
        record = replace(record, model_identity=f"{record.model}@{commit}")
    located = []
    source = replace(
        source_of(Path(record.model)),
        reference=record.model,
        identity=record.model_identity,
    )
    monkeypatch.setattr(
        run_context,
        "locate_model",
        lambda *arguments: located.append(arguments) or source,
    )
    rebuild_model(record, store, ignore_steps, ModelCache())
    assert [arguments[-1] for arguments in located] == [commit]
