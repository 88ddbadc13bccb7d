"""Names of the harness's tasks and of their data sets: found in its files as text, with its own
package left alone.
"""

import subprocess
import sys

import pytest

from sparsedash.catalog import harness_tasks
from sparsedash.catalog.harness_tasks import data_sets, no_such_task, task_folders

FILES = {
    "sums/sums.yaml": 'task: sums\ntag:\n  - adding\n  - "counting"\nmetric_list:\n  - metric: acc\n',
    "sums/more.yaml": '"task": "more_sums"  # of two digits\ninclude: _rest_yaml\n',
    "sums/_rest_yaml": "tag: [arithmetic, digits]\n",
    "words/all.yaml": "group: all_words\ntask:\n  - task: verbs\n  - nouns_(general)\n",
    "words/README.md": "task: nothing\n",
    "words/utils.py": "task: str\n",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr(harness_tasks, "tasks_folder", lambda: tmp_path)
    clear_caches()
    yield tmp_path
    clear_caches()


def clear_caches():
    harness_tasks.harness_tasks.cache_clear()
    data_sets.cache_clear()


def test_tasks_groups_and_tags_are_found_however_they_are_written(folder):
    tops = harness_tasks.harness_tasks()
    sums = {"sums", "adding", "counting", "more_sums", "arithmetic", "digits"}
    assert {name for name, names in tops.items() if names == {"sums"}} == sums
    assert {name for name, names in tops.items() if names == {"words"}} == {
        "all_words",
        "verbs",
        "nouns_(general)",
    }


def test_an_unknown_task_is_refused_with_the_nearest_one(folder):
    assert no_such_task("sums") == no_such_task("nouns_(general)") == ""
    assert no_such_task("cuonting") == (
        "lm-evaluation-harness has no task cuonting. Did you mean counting? `lm_eval ls tasks` lists them."
    )
    assert (
        no_such_task("zzz")
        == "lm-evaluation-harness has no task zzz. `lm_eval ls tasks` lists them."
    )


def test_the_installed_package_is_not_imported_for_it():
    pytest.importorskip("lm_eval")
    program = (
        "import sys; from sparsedash.service.request_checks import unusable_tasks\n"
        "print(unusable_tasks(['piqa', 'piqaa']), 'lm_eval' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
    )
    text = "lm-evaluation-harness has no task piqaa. Did you mean piqa? `lm_eval ls tasks` lists them."
    assert done.stdout.strip() == f"{text} False False"


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
    monkeypatch.setattr(harness_tasks, "tasks_folder", lambda: tmp_path)
    clear_caches()
    yield tmp_path
    clear_caches()


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
def test_the_data_sets_of_a_task_are_those_of_the_folder_that_defines_it(
    package, name, found
):
    assert data_sets(name) == found


def test_every_folder_that_names_a_task_is_found(package):
    assert [folder.name for folder in task_folders("easy")] == ["arc", "lists"]


def test_of_the_installed_harness_the_suggested_tasks_have_theirs():
    pytest.importorskip("lm_eval")
    assert data_sets("piqa") == ("baber/piqa",)
    assert data_sets("arc_challenge") == ("allenai/ai2_arc",)
    assert data_sets("mmlu") == ("cais/mmlu",)
