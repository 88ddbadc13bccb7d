"""What is read off the files of lm-evaluation-harness without importing it."""

import pytest

from sparsedash.catalog import harness_tasks
from sparsedash.catalog.harness_tasks import data_sets, task_folders


@pytest.fixture
def package(tmp_path, monkeypatch):
    files = {
        "arc/easy.yaml": "task: easy\ntag:\n  - both\n  - science\ninclude: _shared_yaml\n",
        "arc/hard.yaml": "include: easy.yaml\ntask: hard # harder\n",
        "arc/_shared_yaml": "dataset_path: allenai/arc\ndataset_name: x\n",
        "lists/all.yaml": "group: everything\ntask:\n  - easy\n  - task: hard\n",
        "lists/own.yaml": "dataset_path: other/set\ntask: own\n",
        "squad/squad.yaml": "task: squad\nclass: !function task.Squad\n",
        "squad/task.py": 'class Squad:\n    DATASET_PATH = "squad_v2"\n',
        "far/far.yaml": "task: far\ninclude: ../arc/_shared_yaml\n",
        "local/local.yaml": "task: local\ndataset_path: json\ndataset_kwargs: {data_files: a.jsonl}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(harness_tasks, "package_folder", lambda: tmp_path)
    data_sets.cache_clear()
    yield tmp_path
    data_sets.cache_clear()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("easy", ("allenai/arc",)),
        ("hard", ("allenai/arc",)),
        ("science", ("allenai/arc",)),
        ("own", ("other/set",)),
        ("squad", ("squad_v2",)),
        ("far", ("allenai/arc",)),
        ("local", ()),
        ("none", ()),
    ],
)
def test_the_data_sets_of_a_task_are_those_of_the_folder_that_defines_it(package, name, found):
    assert data_sets(name) == found


def test_every_folder_that_names_a_task_is_found(package):
    assert [folder.name for folder in task_folders("easy")] == ["arc", "lists"]


def test_of_the_installed_harness_the_suggested_tasks_have_theirs():
    pytest.importorskip("lm_eval")
    assert data_sets("piqa") == ("baber/piqa",)
    assert data_sets("arc_challenge") == ("allenai/ai2_arc",)
    assert data_sets("mmlu") == ("cais/mmlu",)
