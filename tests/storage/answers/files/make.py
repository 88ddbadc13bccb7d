"""Writes the files of this folder by Inspect and promptfoo themselves: `make.py FOLDER`.

Needs `pip install inspect_ai` and `npm install promptfoo` in environments of their own, and
PROMPTFOO, the path of its program. Forty sums and ten choices, of which `small` breaks some.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelAPI, ModelOutput, get_model
from inspect_ai.model._providers.mockllm import MockLLM
from inspect_ai.scorer import choice, match
from inspect_ai.solver import generate, multiple_choice

N_QUESTIONS = 40
N_COLOURS = 10
WRONG = {"dense": {7, 21}, "small": {3, 7, 11, 30, 31, 32, 33}}
COLOURS = ["red", "green", "blue"]


async def five_tokens(*_, **__) -> int:
    """In place of a tokenizer that would be downloaded."""
    return 5


MockLLM.count_tokens = ModelAPI.count_tokens = ModelAPI.count_text_tokens = five_tokens


def ask_inspect(folder: Path, wrong: set[int]) -> None:
    """A log of sums as `.eval`, and one of colours as JSON."""
    sums = []
    answers = []
    for i in range(N_QUESTIONS):
        size = "small" if i < 5 else "large"
        question = f"What is {i} + {i + 1}?"
        sums.append(
            Sample(input=question, target=str(2 * i + 1), metadata={"size": size})
        )
        answers.append("none" if i in wrong else str(2 * i + 1))
    task = Task(
        dataset=sums,
        solver=[generate()],
        scorer=match(numeric=True),
        name="sums",
        version=2,
    )
    ask(task, answers, folder, "eval")
    colours = []
    letters = []
    for i in range(N_COLOURS):
        colours.append(
            Sample(
                input=f"Thing {i} is?",
                choices=COLOURS,
                target="ABC"[i % 3],
                id=f"thing {i}",
            )
        )
        letters.append(f"ANSWER: {'ABC'[(i + (i in wrong)) % 3]}")
    task = Task(
        dataset=colours, solver=[multiple_choice()], scorer=choice(), name="colours"
    )
    ask(task, letters, folder, "json")


def ask(task: Task, answers: list[str], folder: Path, form: str) -> None:
    """One log."""
    outputs = [ModelOutput.from_content("mockllm/model", answer) for answer in answers]
    model = get_model("mockllm/model", custom_outputs=outputs)
    eval(
        task,
        model=model,
        log_dir=str(folder),
        log_format=form,
        max_samples=1,
        max_connections=1,
        display="none",
    )


def ask_promptfoo(file: Path, wrong: set[int]) -> None:
    """Results of the echo provider, whose answers are in the prompts' hidden variable."""
    tests = []
    for i in range(N_QUESTIONS):
        value = "none" if i in wrong else str(2 * i + 1)
        tests.append(
            {
                "vars": {"question": f"{i} + {i + 1}"},
                "options": {"transform": f"{value!r}"},
                "assert": [{"type": "equals", "value": str(2 * i + 1)}],
                "metadata": {"size": "small" if i < 5 else "large"},
            }
        )
    config = {
        "description": "sums",
        "providers": ["echo"],
        "prompts": ["What is {{question}}?"],
        "tests": tests,
    }
    settings = file.with_name("promptfooconfig.json")
    settings.write_text(json.dumps(config))
    quiet = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1"}
    program = os.environ["PROMPTFOO"]
    flags = ["--no-cache", "--no-table", "--no-progress-bar"]
    command = [program, "eval", "-c", str(settings), "-o", str(file), *flags]
    # It exits with 100 where a test fails.
    subprocess.run(command, env=os.environ | quiet, check=False)
    settings.unlink()


if __name__ == "__main__":
    parent = Path(sys.argv[1])
    for name, wrong in WRONG.items():
        ask_inspect(parent / "inspect" / name, wrong)
        (parent / "promptfoo").mkdir(exist_ok=True)
        ask_promptfoo(parent / "promptfoo" / f"{name}.json", wrong)
