"""Writes the files of `opencompass/` by OpenCompass itself: `make_opencompass.py FOLDER`.

Needs, in an environment of its own, `pip install --no-deps opencompass` and what its imports then ask
for one by one: all it depends on is several gigabytes. Forty sums, of which `small` breaks some, by an
evaluator without details and by one with them.
"""

import sys
from pathlib import Path

from datasets import Dataset
from mmengine.config import ConfigDict
from opencompass.datasets.base import BaseDataset
from opencompass.models.base import BaseModel
from opencompass.openicl.icl_evaluator import AccEvaluator, AccwithDetailsEvaluator
from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever
from opencompass.tasks import OpenICLEvalTask, OpenICLInferTask

N_QUESTIONS = 40
WRONG = {"dense": {7, 21}, "small": {3, 7, 11, 30, 31, 32, 33}}
EVALUATORS = {"sums": AccEvaluator, "sums_detailed": AccwithDetailsEvaluator}


class Sums(BaseDataset):
    """What is i + i + 1?"""

    @staticmethod
    def load(path, **_):
        rows = []
        for i in range(N_QUESTIONS):
            rows.append({"question": f"{i} + {i + 1}", "answer": str(2 * i + 1)})
        return Dataset.from_list(rows)


class Adder(BaseModel):
    """A model that adds, but for some sums."""

    def __init__(self, path, wrong, **_):
        super().__init__(path=path, max_seq_len=2048)
        self.wrong = wrong

    def generate(self, inputs, max_out_len, **_):
        answers = []
        for text in inputs:
            number = int(str(text).split()[2])
            answers.append("none" if number in self.wrong else str(2 * number + 1))
        return answers

    def get_token_len(self, prompt):
        return len(prompt)


def ask(folder, name, wrong):
    """The predictions and results of one model."""
    datasets = []
    for task, evaluator in EVALUATORS.items():
        template = {"type": PromptTemplate, "template": "What is {question}?"}
        infer = {
            "prompt_template": template,
            "retriever": {"type": ZeroRetriever},
            "inferencer": {"type": GenInferencer},
        }
        fields = {
            "input_columns": ["question"],
            "output_column": "answer",
            "train_split": "test",
        }
        datasets.append(
            {
                "type": Sums,
                "abbr": task,
                "path": "none",
                "reader_cfg": fields,
                "infer_cfg": infer,
                "eval_cfg": {"evaluator": {"type": evaluator}},
            }
        )
    model = {
        "type": Adder,
        "abbr": name,
        "path": name,
        "wrong": sorted(wrong),
        "max_out_len": 8,
        "batch_size": 4,
        "run_cfg": {"num_gpus": 0},
    }
    config = ConfigDict(
        models=[model],
        datasets=[datasets],
        work_dir=str(folder),
        infer={"runner": {"task": {}}},
        eval={"runner": {"task": {"dump_details": True}}},
    )
    OpenICLInferTask(config).run()
    OpenICLEvalTask(config).run()


if __name__ == "__main__":
    for name, wrong in WRONG.items():
        ask(Path(sys.argv[1]), name, wrong)
