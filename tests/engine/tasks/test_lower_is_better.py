"""What becomes of every task folder of lm-evaluation-harness 0.4.13 with a measure of which less is
better.
"""

import re
import warnings
from collections import defaultdict
from itertools import chain
from pathlib import Path

import datasets
import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from sparsedash.engine.tasks import harness
from sparsedash.engine.tasks.harness import load_tasks
from sparsedash.engine.tasks.harness_model import Nobody
from sparsedash.schema.errors import CorpusError

HARNESS = Path(lm_eval.tasks.__file__).parent
METHODOLOGY = Path(__file__).parents[3] / "docs" / "methodology.md"
DECLARES = re.compile(
    r"^[^#\n]*higher_is_better:\s*false", re.IGNORECASE | re.MULTILINE
)
N_MEASURES_SHOWN = 3

TEXT = "The lamp stood by the window and gave a warm light"
BIASED = {
    "question_polarity": "neg",
    "question_type": "pro-stereo",
    "context": TEXT,
    "question": "Who was late?",
    "stereotyped_groups": ["Young"],
    "additional_metadata": {"stereotyped_groups": ["Young"]},
    "answer_info": {
        "ans0": ["Ann", "Young"],
        "ans1": ["Tom", "Old"],
        "ans2": ["unknown", "unknown"],
    },
    "category": "Age",
    "label": 0,
    "ans0": "Ann",
    "ans1": "Tom",
    "ans2": "Not known",
}
BOTH_CONDITIONS = [
    BIASED | {"context_condition": "ambig"},
    BIASED | {"context_condition": "disambig"},
]
DOCUMENTS = {
    "bbq": BOTH_CONDITIONS,
    "cabbq": BOTH_CONDITIONS,
    "careqa": [{"question": TEXT, "answer": TEXT}],
    "crows_pairs": [
        {"sent_more": f"{TEXT}.", "sent_less": f"{TEXT}!", "bias_type": "age"},
    ],
    "lambada": [{"text": TEXT}],
    "mimic_repsum": [{"text": TEXT}],
    "paloma": [{"text": TEXT}],
    "realtoxicityprompts": [{"prompt": {"text": TEXT}}],
    "simple_cooccurrence_bias": [{"sentence": TEXT}],
}
"""Of each outcome in the table, a folder, and a few documents in the form of its own."""

REFUSALS = {
    "no measure by which every answer is right or wrong": "refused: no measure is right or wrong of each answer",
    "would be downloaded as code": "refused: a metric would be downloaded as code",
    "Please install evaluation metrics": "refused: its metrics need packages of their own",
    "at random": "refused: it draws its answers at random",
    "PERSPECTIVE_API_KEY": "refused: a service on the web judges the answers",
}
"""What stands for a refusal in the table, by what the refusal says."""


def documented_rows():
    """The rows of the table, by folder."""
    section = (
        METHODOLOGY.read_text()
        .partition("\n### Where lower is better\n")[2]
        .partition("\n### ")[0]
    )
    return {
        line.split("`")[1]: line
        for line in section.splitlines()
        if line.startswith("| `")
    }


def lower_measures(config):
    """The measures that a task declares, or a group of tasks, of which less is better."""
    lower = [
        metric["metric"]
        for metric in config.get("metric_list") or ()
        if metric.get("higher_is_better") is False
    ]
    return tuple(str(measure).rpartition(".")[2] for measure in lower)


def fill(folder, monkeypatch):
    """Give the tasks of a folder documents in the form of their own.

    Returns the names of those that declare it, by their kind: measures, and how they are asked and
    judged.
    """
    manager = TaskManager(
        include_path=[str(HARNESS / folder)],
        include_defaults=False,
    )
    documents = datasets.Dataset.from_list(DOCUMENTS[folder] * 10)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: defaultdict(lambda: documents)
    )
    monkeypatch.setattr(
        harness, "_of_the_harness", lambda name: dict(manager.load([name])["tasks"])
    )
    monkeypatch.delenv("PERSPECTIVE_API_KEY", raising=False)
    names = defaultdict(list)
    for name, entry in sorted(manager.task_index.items()):
        config = (
            load_yaml(entry.yaml_path, resolve_func=False) if entry.yaml_path else {}
        )
        if measures := lower_measures(config):
            names[
                measures, config.get("output_type"), str(config.get("process_results"))
            ].append(name)
    return names


def outcome(name):
    """What becomes of a task, or of the tasks of a group, in words."""
    try:
        tasks = load_tasks([name], limit=None, n_shots=None)
    except CorpusError as error:
        return next(words for cause, words in REFUSALS.items() if cause in str(error))
    (words,) = {
        judged(task.answer_with(Nobody(task.task.doc_to_target))) for task in tasks
    }
    return words


def judged(answers):
    if answers.kind == "rolling":
        return "documents, judged by word perplexity"
    assert answers.higher_is_better is not None
    if answers.inverted:
        return f"judged by `{answers.measure}`, inverted"
    return f"judged by `{answers.measure}`, of which more is better"


def row(folder, monkeypatch):
    """The row of the table. Every kind of task is asked once."""
    names = fill(folder, monkeypatch)
    outcomes = {kind_names[0]: outcome(kind_names[0]) for kind_names in names.values()}
    measures = list(dict.fromkeys(chain(*(measures for measures, *_ in names))))
    shown = ", ".join(f"`{measure}`" for measure in measures[:N_MEASURES_SHOWN])
    if len(measures) > N_MEASURES_SHOWN:
        shown += f" and {len(measures) - N_MEASURES_SHOWN} more"
    (words, *others) = dict.fromkeys(outcomes.values())
    if others:
        words = "; ".join(f"`{name}`: {words}" for name, words in outcomes.items())
    n_tasks = sum(map(len, names.values()))
    return f"| `{folder}` | {n_tasks} | {shown} | {words} |"


def test_the_table_holds_every_folder_that_declares_a_measure_of_which_less_is_better():
    files = (
        file
        for file in HARNESS.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc", ".md")
    )
    folders = {
        file.relative_to(HARNESS).parts[0]
        for file in files
        if DECLARES.search(file.read_text(encoding="utf-8", errors="replace"))
    }
    assert sorted(documented_rows()) == sorted(folders)


def test_in_a_run_the_likelier_stereotype_is_a_wrong_answer(monkeypatch):
    fill("crows_pairs", monkeypatch)
    (task,) = load_tasks(
        ["crows_pairs_english"],
        limit=2,
        n_shots=None,
    )
    # To nobody the first of two sentences, the stereotype, is the likelier one.
    answers = task.answer_with(Nobody(str))
    assert [(question.chosen, question.right) for question in answers.questions] == [
        (0, False),
        (0, False),
    ]
    assert answers.questions[0].target == f"not {TEXT}."


@pytest.mark.parametrize("folder", DOCUMENTS)
def test_a_folder_of_the_harness_is_inverted_judged_or_refused_as_the_table_says(
    folder, monkeypatch
):
    # Some of the harness's tasks warn whatever the filters say.
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        assert row(folder, monkeypatch) == documented_rows()[folder]
