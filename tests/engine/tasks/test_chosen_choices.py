"""The choice shown is the one that the harness scored: 200 questions with odd white space, by every
measure.
"""

import json
import random
import zlib

import pytest
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.loggers import EvaluationTracker

from sparsedash.engine.tasks.harness import load_tasks
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.stats.task_pairs import pair_answers
from sparsedash.stats.task_verdicts import judge_tasks
from sparsedash.storage.answers.answer_files import read_answers
from tests.engine.tasks.task_folder import MULTIPLE_CHOICE, write_task

N_QUESTIONS = 200
MEASURES = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
SPACES = ("", " ", "   ", "\t", "\n ", "\u00a0", "\u3000")
WORDS = ("rust", "a field of long grass", "Füße", "川", "no", "no more")


class Guesser(LM):
    """Draws a log-likelihood from the request and a seed, by length like a model, and one in five
    is a first choice.
    """

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def loglikelihood(self, requests, disable_tqdm=True):
        return [self.scored(*request.args) for request in requests]

    def scored(self, context, continuation):
        draw = random.Random(
            zlib.crc32(f"{self.seed} {context} {continuation}".encode())
        )
        # Whole and half nats, so that there are ties.
        log_likelihood = -draw.randint(0, 8) / 2 - len(continuation) // 4
        return log_likelihood, draw.random() < 0.2

    def loglikelihood_rolling(self, requests, disable_tqdm=True):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=True):
        raise NotImplementedError


def rows(draw):
    for i in range(N_QUESTIONS):
        n_choices = draw.randint(2, 5)
        choices = [
            draw.choice(SPACES) + draw.choice(WORDS) + draw.choice(SPACES)
            for _ in range(n_choices)
        ]
        yield {
            "question": f"Question {i}:",
            "choices": choices,
            "label": draw.randrange(n_choices),
        }


@pytest.fixture(
    params=[" ", ""],
    ids=["a space before", "nothing before"],
)
def write_choices(request, tmp_path):
    """The reference of a task over the odd choices, judged by one measure."""

    def write(measure):
        lines = [json.dumps(row) for row in rows(random.Random(5))]
        (tmp_path / "odd.jsonl").write_text("\n".join(lines))
        config = {
            "metric_list": [
                {
                    "metric": measure,
                    "aggregation": "mean",
                    "higher_is_better": True,
                }
            ],
            "target_delimiter": request.param,
        }
        return write_task(
            tmp_path,
            "odd",
            **MULTIPLE_CHOICE | config,
        )

    return write


def scored_by_harness(task, lm, measure):
    """Of every question, the places of the choices that the harness's own rule takes, and whether
    it is right.
    """
    answers = []
    for doc in task.test_docs():
        requests = task.construct_requests(
            doc,
            doc["question"],
            metadata=("odd", 0, 1),
        )
        results = [lm.scored(*request.args) for request in requests]
        places = range(len(doc["choices"]))
        choices_taken = [
            place
            for place in places
            if task.process_results(doc | {"label": place}, results)[measure] == 1
        ]
        answers.append(
            (choices_taken, task.process_results(doc, results)[measure] == 1)
        )
    return answers


def counted(dense, sparse):
    """How many answers broke, were fixed and moved, by what the harness takes."""
    broke = fixed = moved = 0
    for (dense_taken, dense_right), (sparse_taken, sparse_right) in zip(
        dense, sparse, strict=True
    ):
        broke += dense_right and not sparse_right
        fixed += sparse_right and not dense_right
        moved += (
            not dense_right and not sparse_right and dense_taken[:1] != sparse_taken[:1]
        )
    return broke, fixed, moved


def samples_file(folder, task, lm):
    """The folder of files as the harness itself writes them."""
    results = evaluate(
        lm=lm,
        task_dict={"tasks": {"odd": task}},
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = results.pop("samples")
    tracker = EvaluationTracker(output_path=str(folder))
    tracker.general_config_tracker.model_name_sanitized = "model"
    tracker.save_results_aggregated(
        results=results,
        samples=samples,
    )
    tracker.save_results_samples(
        task_name="odd",
        samples=samples["odd"],
    )
    return folder


@pytest.mark.parametrize("measure", MEASURES)
def test_chosen_right_broke_fixed_and_moved_are_the_harness_s_own(
    measure, write_choices, tmp_path
):
    (task,) = load_tasks(
        [write_choices(measure)],
        limit=None,
        n_shots=None,
    )
    models = [Guesser(1), Guesser(2)]
    expected = [scored_by_harness(task.task, lm, measure) for lm in models]
    of_run = [task.answer_with(lm) for lm in models]
    folders = [
        samples_file(tmp_path / f"model {lm.seed}", task.task, lm) for lm in models
    ]
    of_files = [read_answers(folder)[0] for folder in folders]
    assert any(choices_taken for choices_taken, _ in expected[0]) and any(
        right for _, right in expected[0]
    )
    for sets in (of_run, of_files):
        for answers, of_harness in zip(sets, expected, strict=True):
            assert (answers.measure, len(answers.questions)) == (measure, N_QUESTIONS)
            for question, (choices_taken, right) in zip(
                answers.questions, of_harness, strict=True
            ):
                assert question.right == right
                # Several can be a first choice, as one that begins with another; the right one is
                # shown, if any.
                assert question.chosen in (choices_taken or [None])
                assert right is False or question.chosen == int(question.target)
        (result,) = judge_tasks([pair_answers(*sets)], Tolerance())
        assert (result.broke, result.fixed, result.moved) == counted(*expected)
