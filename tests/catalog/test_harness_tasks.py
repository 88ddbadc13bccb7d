"""Names of the harness's tasks: found in its files as text, with its own package left alone."""

import subprocess
import sys

import pytest

from sparsedash.catalog import harness_tasks
from sparsedash.catalog.harness_tasks import no_such_task

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
    harness_tasks.harness_tasks.cache_clear()
    yield tmp_path
    harness_tasks.harness_tasks.cache_clear()


def test_tasks_groups_and_tags_are_found_however_they_are_written(folder):
    tops = harness_tasks.harness_tasks()
    sums = {"sums", "adding", "counting", "more_sums", "arithmetic", "digits"}
    assert {name for name, found in tops.items() if found == {"sums"}} == sums
    assert {name for name, found in tops.items() if found == {"words"}} == {"all_words", "verbs", "nouns_(general)"}


def test_an_unknown_task_is_refused_with_the_nearest_one(folder):
    assert no_such_task("sums") == no_such_task("nouns_(general)") == ""
    assert no_such_task("cuonting") == (
        "lm-evaluation-harness has no task cuonting. Did you mean counting? `lm_eval ls tasks` lists them."
    )
    assert no_such_task("zzz") == "lm-evaluation-harness has no task zzz. `lm_eval ls tasks` lists them."


def test_the_installed_package_is_not_imported_for_it():
    pytest.importorskip("lm_eval")
    program = (
        "import sys; from sparsedash.service.request_checks import unusable_tasks\n"
        "print(unusable_tasks(['piqa', 'piqaa']), 'lm_eval' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = "lm-evaluation-harness has no task piqaa. Did you mean piqa? `lm_eval ls tasks` lists them."
    assert done.stdout.strip() == f"{said} False False"
