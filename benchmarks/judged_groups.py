"""A group of tasks that lm-evaluation-harness itself asks two models, and what `judge` makes of its
files: the harness's accuracies beside those that were read.

    python -m benchmarks.judged_groups --dense builtin:smollm2-135m --other smol-20 --folder answers

The group `skills` has eight subtasks, drawn as the built-in tasks are; its score is that of all
questions. An answer is right where each of its tokens is the model's first choice.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.child import folder_of, printed_by
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS
from sparsedash.storage.answers.answer_files import read_answers

TASKS = ("arithmetic", "copying", "json", "sequences")
SUBTASK = """
task: skills_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood
doc_to_text: context
doc_to_target: answer
target_delimiter: ""
metric_list: [{{metric: acc}}]
metadata: {{version: 1.0}}
"""
GROUP = """
group: skills
task: [{names}]
aggregate_metric_list: [{{metric: acc, weight_by_size: true}}]
metadata: {{version: 1.0}}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dense", required=True, help="a model of any kind")
    parser.add_argument("--other", required=True, help="a folder that transformers loads")
    parser.add_argument("--folder", type=Path, required=True, help="of the tasks and answers")
    parser.add_argument("--questions", type=int, default=1_000)
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    write_group(folder / "tasks", arguments.questions)
    models = {"dense": folder_of(arguments.dense, folder), "other": arguments.other}
    for name, model in models.items():
        if not list((folder / name).rglob("results_*.json")):
            ask(model, folder / "tasks", folder / name)
        print_accuracies(name, folder / name)
    paths = [str(folder / name) for name in models]
    print(printed_by("sparsedash", "judge", *paths, "--slices", "part"))


def write_group(folder, n_questions):
    """The files of the group, as many questions of each part."""
    folder.mkdir(parents=True, exist_ok=True)
    n_parts = sum(len(BUILTIN_TASKS[f"builtin:{task}"].parts) for task in TASKS)
    names = []
    for task in TASKS:
        builtin = BUILTIN_TASKS[f"builtin:{task}"]
        for part in builtin.parts:
            name = f"{task}_{part.replace(' ', '_')}"
            names.append(f"skills_{name}")
            lines = []
            for question in builtin.questions():
                if question.part == part:
                    row = {"context": question.context, "answer": question.answer}
                    lines.append(json.dumps(row))
            file = folder / f"{name}.jsonl"
            file.write_text("\n".join(lines[: n_questions // n_parts]), encoding="utf-8")
            text = SUBTASK.format(name=name, file=file)
            (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    group = GROUP.format(names=", ".join(names))
    (folder / "skills.yaml").write_text(group, encoding="utf-8")


def ask(model, tasks, folder):
    """Let the harness write its results and samples."""
    options = ["--model", "hf", "--model_args", f"pretrained={model},dtype=float32"]
    options += ["--tasks", "skills", "--include_path", str(tasks), "--batch_size", "16"]
    options += ["--device", "cpu", "--log_samples", "--output_path", str(folder)]
    subprocess.run([sys.executable, "-m", "lm_eval", "run", *options], check=True)


def print_accuracies(name, folder):
    """Of the group and each subtask: the harness's accuracy and that of the answers read."""
    (file,) = folder.rglob("results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))
    (answers,) = read_answers(folder)
    right_by_task = {answers.task: []}
    for question in answers.questions:
        right_by_task[answers.task].append(question.right)
        part = f"{answers.task}_{question.fields['part']}"
        right_by_task.setdefault(part, []).append(question.right)
    for task, scores in results["results"].items():
        right = right_by_task[task]
        accuracy = scores["acc,none"]
        read = sum(right) / len(right)
        equal = "equal" if abs(read - accuracy) < 1e-12 else "DIFFERS"
        print(
            f"{name:<6}{task:<32}{len(right):>5}{accuracy:>9.4f}{read:>9.4f}  {equal}", flush=True
        )


if __name__ == "__main__":
    main()
