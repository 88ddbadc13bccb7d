"""Tasks answered by our evaluator and by lm-evaluation-harness's own HFLM, on the same questions,
one after the other.

    python -m benchmarks.tasks --tasks file:PIQA.yaml,file:WORDS.yaml --questions 1000

Of each task: how many answers differ (right or wrong, the choice taken, the text), how far apart
log-likelihoods are, and how many times faster ours is, by the clock and by processor time. Both go
over the questions in --rounds parts in turn, since a shared machine drifts. Without --tasks: a last
word, a choice of four, a document and a written text made of the passages.
"""

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lm_eval.models.huggingface import HFLM

from benchmarks.arguments import answers_parser, chosen_passages
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.tasks.harness import load_tasks
from sparsedash.engine.tasks.harness_model import HarnessModel
from sparsedash.engine.tasks.shared_answers import SharedAnswers
from sparsedash.storage.store import Store

KINDS = {
    "last word": """
output_type: loglikelihood
doc_to_text: context
doc_to_target: target
metric_list: [{metric: acc}]
""",
    "choice": """
output_type: multiple_choice
doc_to_text: context
doc_to_choice: choices
doc_to_target: "{{0}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "document": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{context}}{{target}}"
metric_list: [{metric: bits_per_byte}]
""",
    "written": r"""
output_type: generate_until
doc_to_text: context
doc_to_target: target
generation_kwargs: {until: [".", "\n"], max_gen_toks: 32, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
DATA = """
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
"""


def main() -> None:
    arguments = _arguments()
    loaded = load_model(
        locate_model(arguments.model, Store(arguments.data_dir)), "float32"
    )
    print(
        f"{arguments.model}, float32; {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"
    )
    answers = SharedAnswers(loaded, [nullcontext], lambda n: None)
    with TemporaryDirectory() as folder:
        names = (
            arguments.tasks.split(",")
            if arguments.tasks
            else _passage_tasks(Path(folder), arguments)
        )
        for task in load_tasks(names, arguments.questions, None):
            harness = HFLM(
                pretrained=loaded.model,
                tokenizer=loaded.tokenizer,
                batch_size=arguments.batch,
            )
            _print_comparison(
                task,
                [Timed(HarnessModel(answers, 0)), Timed(harness)],
                arguments.rounds,
            )


class Timed:
    """A model that answers requests, and then knows the answers: the harness judges them. Its
    seconds are counted.
    """

    rank = 0
    world_size = 1

    def __init__(self, model) -> None:
        self._model = model
        self.answers = {}
        self.seconds = 0.0
        self.processor_s = 0.0

    def ask(self, requests) -> None:
        """Let the model answer these requests of one kind."""
        clock = time.perf_counter()
        processor = time.process_time()
        answers = getattr(self._model, requests[0].request_type)(
            requests, disable_tqdm=True
        )
        self.seconds += time.perf_counter() - clock
        self.processor_s += time.process_time() - processor
        for request, answer in zip(requests, answers, strict=True):
            self.answers[request.doc_id, request.idx] = answer

    def _known(self, requests):
        return [self.answers[request.doc_id, request.idx] for request in requests]

    loglikelihood = loglikelihood_rolling = generate_until = _known


def _print_comparison(task, models, n_rounds):
    """Print the line of one task. models: ours and the harness's."""
    requests = [
        request for request in task.task.instances if request.doc_id < task.n_questions
    ]
    size = -(-len(requests) // n_rounds)
    for start in range(0, len(requests), size):
        for model in models:
            model.ask(requests[start : start + size])
    kind = requests[0].request_type
    apart = 0.0
    if kind != "generate_until":
        ours, theirs = (
            map(_log_likelihood, model.answers.values()) for model in models
        )
        apart = max(abs(our - their) for our, their in zip(ours, theirs, strict=True))
    ours, theirs = (task.answer_with(model).questions for model in models)
    n_differ = sum(
        _answer(our) != _answer(their) for our, their in zip(ours, theirs, strict=True)
    )
    ours, theirs = models
    print(
        f"{task.name:18} {kind:22} {task.n_questions:5} questions, {n_differ} answers differ, log-likelihoods within "
        f"{apart:.2g}; {theirs.seconds / ours.seconds:.2f} x as fast, "
        f"{theirs.processor_s / ours.processor_s:.2f} x by processor time"
    )


def _answer(question):
    return question.right, question.chosen, question.text


def _log_likelihood(answer):
    return answer[0] if isinstance(answer, tuple) else answer


def _passage_tasks(folder, arguments):
    """References of tasks of every kind, made of the passages."""
    passages = chosen_passages(arguments)
    targets = [target.strip() for target in passages.targets]
    rows = []
    for i, (context, target) in enumerate(zip(passages.contexts, targets, strict=True)):
        words = [targets[(i + step) % len(targets)] for step in range(4)]
        choices = [f"{word} {words[1]} {word}" for word in words]
        rows.append({"context": context, "target": f" {target}", "choices": choices})
    (folder / "rows.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8"
    )
    for name, task in KINDS.items():
        (folder / f"{name}.yaml").write_text(
            f"task: {name}{DATA}{task}", encoding="utf-8"
        )
    return [f"file:{folder / name}.yaml" for name in KINDS]


def _arguments():
    parser = answers_parser(
        __doc__,
        tasks=("", "names or files, with commas between"),
        questions=(int, "of each task, at most"),
        batch=(16, "requests in a batch of HFLM"),
        rounds=2,
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
