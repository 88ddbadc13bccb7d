"""Tasks answered by our evaluator and by lm-evaluation-harness's own HFLM, on the same questions, one after the other.

    python -m benchmarks.tasks --tasks file:PIQA.yaml,file:WORDS.yaml --questions 1000

Of each task: how many answers differ (right or wrong, the choice taken, the text), how far apart log-likelihoods are,
and how many times faster ours is, by the clock and by processor time. Both go over the questions in --rounds parts in
turn, since a shared machine drifts. Without --tasks: a last word, a choice of four, a document and a written text made
of the passages.
"""

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lm_eval.models.huggingface import HFLM

from benchmarks.arguments import answers_parser
from sparsedash.engine.evaluation.questions import choose_passages
from sparsedash.engine.models.loading import load_model, locate_model
from sparsedash.engine.tasks.harness import load_tasks
from sparsedash.engine.tasks.harness_model import HarnessModel
from sparsedash.engine.tasks.shared_answers import SharedAnswers
from sparsedash.engine.texts.corpora import read_texts
from sparsedash.schema.settings import EvaluationSettings
from sparsedash.storage.store import Store

WORD = {"doc_to_text": "context", "doc_to_target": "target", "metric_list": [{"metric": "acc"}]}
KINDS = {
    "last word": WORD | {"output_type": "loglikelihood"},
    "choice": WORD
    | {"output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "{{0}}"}
    | {"metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
    "document": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{context}}{{target}}"}
    | {"metric_list": [{"metric": "bits_per_byte"}]},
    "written": WORD
    | {"output_type": "generate_until", "metric_list": [{"metric": "exact_match"}]}
    | {"generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 32, "do_sample": False}},
}


def main() -> None:
    arguments = _arguments()
    loaded = load_model(locate_model(arguments.model, Store(arguments.data_dir)), "float32")
    print(f"{arguments.model}, float32; {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    ours, theirs = (
        SharedAnswers(loaded, [nullcontext], lambda n: None),
        {"pretrained": loaded.model, "tokenizer": loaded.tokenizer, "batch_size": arguments.batch},
    )
    with TemporaryDirectory() as folder:
        asked = arguments.tasks.split(",") if arguments.tasks else _own_tasks(Path(folder), arguments)
        for task in load_tasks(asked, arguments.questions, None):
            _compare(task, HarnessModel(ours, 0), HFLM(**theirs), arguments.rounds)


def _compare(task, ours, theirs, n_rounds) -> None:
    """Print the line of one task."""
    seconds, answers = {lm: [0.0, 0.0] for lm in (ours, theirs)}, {lm: [] for lm in (ours, theirs)}
    asked = [request for request in task.task.instances if request.doc_id < task.n_questions]
    kind = asked[0].request_type
    size = -(-len(asked) // n_rounds)
    for start in range(0, len(asked), size):
        for lm in (ours, theirs):
            clock, processor = time.perf_counter(), time.process_time()
            answers[lm] += getattr(lm, kind)(asked[start : start + size], disable_tqdm=True)
            seconds[lm][0] += time.perf_counter() - clock
            seconds[lm][1] += time.process_time() - processor
    pairs = list(zip(*answers.values(), strict=True))
    apart = max((abs(_number(a) - _number(b)) for a, b in pairs if kind != "generate_until"), default=0.0)
    sets = [task.answered_by(_Known(lm, kind, asked, answers[lm])) for lm in (ours, theirs)]
    told = zip(*([(each.right, each.chosen, each.text) for each in own.questions] for own in sets), strict=True)
    n_differ = sum(one != two for one, two in told)
    clock, processor = (theirs_s / ours_s for theirs_s, ours_s in zip(seconds[theirs], seconds[ours], strict=True))
    print(
        f"{task.name:18} {kind:22} {task.n_questions:5} questions, {n_differ} answers differ, log-likelihoods within "
        f"{apart:.2g}; {clock:.2f} x as fast, {processor:.2f} x by processor time"
    )


class _Known:
    """A model whose answers to these requests are known, for the harness to judge."""

    rank, world_size = 0, 1

    def __init__(self, lm, kind, asked, answers) -> None:
        self._by_place = {(each.doc_id, each.idx): answer for each, answer in zip(asked, answers, strict=True)}
        setattr(self, kind, lambda requests: [self._by_place[each.doc_id, each.idx] for each in requests])


def _number(answer) -> float:
    return answer[0] if isinstance(answer, tuple) else answer


def _own_tasks(folder, arguments) -> list[str]:
    """References of tasks of every kind, made of the passages."""
    settings = EvaluationSettings(n_passages=arguments.passages)
    chosen = choose_passages(read_texts(arguments.evaluation), settings)
    targets = [target.strip() for target in chosen.targets]
    rows = []
    for i, (context, target) in enumerate(zip(chosen.contexts, targets, strict=True)):
        others = [targets[(i + step) % len(targets)] for step in (1, 2, 3)]
        choices = [f"{word} {others[0]} {word}" for word in (target, *others)]
        rows.append({"context": context, "target": f" {target}", "choices": choices})
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "test_split": "test"}
    for name, config in KINDS.items():
        # JSON is YAML.
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **data, **config}), encoding="utf-8")
    return [f"file:{folder / name}.yaml" for name in KINDS]


def _arguments():
    parser = answers_parser(__doc__)
    parser.add_argument("--tasks", default="", help="names or files, with commas between")
    parser.add_argument("--questions", type=int, help="of each task, at most")
    parser.add_argument("--batch", type=int, default=16, help="requests in a batch of HFLM")
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
