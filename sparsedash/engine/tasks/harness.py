"""lm-evaluation-harness's tasks: loaded, checked and answered, without running user code.

Of the harness's own tasks the installed package's code runs, but for those marked as unsafe and
metrics that would be downloaded as code. A user's task is a .yaml file of texts: no `!function`, no
`include`, its data beside it, its templates in jinja2's sandbox. The harness's own cache, which is
pickled, stays off.
"""

import json
import logging
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sparsedash.catalog.choices import NO_HARNESS
from sparsedash.catalog.harness_tasks import no_such_task, task_folders
from sparsedash.engine.tasks.shared_answers import SharedAnswers
from sparsedash.engine.tasks.task_fields import require_targets
from sparsedash.engine.tasks.user_tasks import load_user_tasks
from sparsedash.schema.errors import CorpusError, SparseDashError, first_line
from sparsedash.schema.plain_values import digest
from sparsedash.schema.question_records import QuestionSet, pool_parts
from sparsedash.schema.settings import DATA_SET
from sparsedash.storage.answers.harness_samples import samples_set
from sparsedash.storage.hub_reach import reachable
from sparsedash.storage.text_files import FILE
from sparsedash.storage.trials import run_trial, trial_problem

_SEED = 1234
"""With which the harness draws examples for all models alike."""
_MAX_TASKS = 200
_TRIAL_S = 20
_TRIAL_BYTES = 2 * 10**9
"""Of preparing a user's tasks, beside what the harness itself takes: 10,000 questions with ten
examples take 6 s.
"""
_GREEDY = frozenset(
    (
        "until",
        "do_sample",
        "temperature",
        "top_p",
        "top_k",
        "max_gen_toks",
        "max_new_tokens",
        "max_tokens",
        "max_completion_tokens",
    )
)
"""Rules of writing that are heeded, or say nothing where the first choice is always taken."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, eq=False, kw_only=True)
class HarnessTask:
    """A task that can be answered. task: the harness's own object.

    identity: digest of all that its answers depend on.

    n_questions, n_requests: of one model: a choice is a request. n_written: tokens that an answer
    may have. limit: questions at most.
    """

    name: str
    task: Any
    identity: str
    n_questions: int
    n_requests: int
    n_written: int
    limit: int | None

    def answer(self, answers: SharedAnswers, number: int) -> QuestionSet:
        """The answers of one of these models. Raises CorpusError where they cannot be judged."""
        # Here, since it takes seconds and needs a package that most runs do without.
        from sparsedash.engine.tasks.harness_model import HarnessModel

        return self.answer_with(HarnessModel(answers, number))

    def answer_with(self, lm: Any) -> QuestionSet:
        """The answers of one model, an LM of the harness. Raises CorpusError if not judgeable."""
        with _refusing(self.name):
            return _answered(self.name, self.task, self.limit, lm)


def load_tasks(
    references: Sequence[str],
    limit: int | None,
    n_shots: int | None,
    revisions: Sequence[tuple[str, str]] = (),
) -> list[HarnessTask]:
    """The tasks of these names and files, groups as their parts, tried on two questions.

    revisions: as in RunSettings. Raises CorpusError in one sentence for what cannot be had. A
    user's files are tried in a process of its own first.
    """
    if find_spec("lm_eval") is None:
        raise CorpusError(NO_HARNESS)
    if users_files := [
        reference for reference in references if reference.startswith(FILE)
    ]:
        _require_affordable(users_files, limit, n_shots)
    return _loaded(references, limit, n_shots, revisions)


def _require_affordable(
    users_files: Sequence[str], limit: int | None, n_shots: int | None
) -> None:
    """Raise CorpusError where preparing a user's files is refused, too slow or too large.

    Their templates are programs, which count as far and write as much as they like.
    """
    too_much = f"takes more than {_TRIAL_S} s or {_TRIAL_BYTES / 1e9:.0f} GB before its first question"
    request = json.dumps([users_files, limit, n_shots])
    problem = trial_problem(__name__, request, seconds=_TRIAL_S, too_much=too_much)
    if problem.endswith("."):
        raise CorpusError(problem)
    if problem:
        names = ", ".join(Path(reference).name for reference in users_files)
        raise CorpusError(
            f"{names} {problem}.",
            "Make its templates simpler, or ask fewer questions: --task-limit.",
        )


def main(request: str) -> None:
    """Prepare the tasks of a user's files in this process, and print why they cannot be used."""
    # They take seconds, which are not those of the files.
    import evaluate  # noqa: F401
    import lm_eval.evaluator  # noqa: F401

    def problem() -> str:
        try:
            _loaded(*json.loads(request))
        except CorpusError as error:
            return str(error)
        return ""

    run_trial(problem, _TRIAL_BYTES, _TRIAL_S)


def _loaded(
    references: Sequence[str],
    limit: int | None,
    n_shots: int | None,
    revisions: Sequence[tuple[str, str]] = (),
) -> list[HarnessTask]:
    from sparsedash.engine.tasks.harness_model import Nobody

    tasks = dict[str, Any]()
    users_tasks = set[str]()
    # A hub that is gone is waited for once.
    offline = (
        all(reference.startswith(FILE) for reference in references) or not reachable()
    )
    for reference in references:
        with (
            _refusing(reference),
            _quiet_and_safe(offline=offline),
            _pinned(dict(revisions)),
        ):
            _seed()
            loaded = (
                load_user_tasks(reference)
                if reference.startswith(FILE)
                else _of_the_harness(reference)
            )
            if both := sorted(tasks.keys() & loaded.keys()):
                raise CorpusError(f"{both[0]} is named twice.", "Name each task once.")
            tasks |= loaded
            if reference.startswith(FILE):
                users_tasks |= loaded.keys()
    if len(tasks) > _MAX_TASKS:
        raise CorpusError(
            f"These are {len(tasks):,} tasks; at most {_MAX_TASKS} at once.",
            "Name fewer.",
        )
    harness_tasks = []
    samples = []
    for name, task in tasks.items():
        with _refusing(name), _quiet_and_safe(offline=True):
            _require_possible(name, task)
            _set_shots(task, n_shots)
            if name in users_tasks:
                require_targets(name, task, islice(task.eval_docs, limit))
            samples.append(_answered(name, task, 2, Nobody(task.doc_to_target)))
            requests = _built(task, limit)
            harness_tasks.append(
                HarnessTask(
                    name=name,
                    task=task,
                    identity=_identity(task, requests),
                    n_questions=len({request.doc_id for request in requests}),
                    n_requests=len(requests),
                    n_written=max([0, *map(_n_written, requests)]),
                    limit=limit,
                )
            )
    # Parts that cannot be judged together would say so only after the work.
    pool_parts(samples)
    return harness_tasks


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Inside, whatever the harness, its tasks and its data raise is one sentence."""
    try:
        yield
    except (SparseDashError, MemoryError):
        raise
    except ConnectionError as error:
        raise CorpusError(
            f"The questions of {name} are not in the local cache, and the hub cannot be reached.",
            "Connect to the network once, or name file:PATH of a task with its data.",
        ) from error
    except Exception as error:
        # That of a library which only says that it could not read the data.
        reason = first_line(error.__cause__ or error)
        raise CorpusError(f"The task {name} cannot be used: {reason}.") from error


@contextmanager
def _quiet_and_safe(*, offline: bool) -> Iterator[None]:
    """Inside, the harness shows no bars, downloads no metric and sandboxes its templates.

    offline: loads no data from the hub.

    Only the last is set back.
    """
    import datasets
    import evaluate as downloaded_metrics
    import lm_eval.api.model
    import lm_eval.api.task
    import lm_eval.utils

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    for module in (lm_eval.api.task, lm_eval.api.model):
        module.tqdm = _no_bar
    if not isinstance(lm_eval.utils.env, ImmutableSandboxedEnvironment):
        filters = lm_eval.utils.env.filters
        sandbox = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, keep_trailing_newline=True
        )
        sandbox.filters.update(filters)
        # The harness compiles a template anew for every question and every example before it.
        sandbox.from_string = lru_cache(sandbox.from_string)  # type: ignore[assignment, method-assign]
        lm_eval.utils.env = sandbox
    downloaded_metrics.load = _refuse_metric
    datasets.disable_progress_bars()
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


@contextmanager
def _pinned(revisions: Mapping[str, str]) -> Iterator[None]:
    """Inside, data sets of the hub are loaded in these revisions, by their names after DATA_SET."""
    import datasets

    load = datasets.load_dataset

    def load_pinned(path: str, *arguments: Any, **options: Any) -> Any:
        commit = revisions.get(DATA_SET + path, "")
        if not commit or options.get("revision"):
            return load(path, *arguments, **options)
        data = load(path, *arguments, revision=commit, **options)
        # Where the hub does not answer, `datasets` takes the newest revision that it has.
        if any(commit not in Path(file).parts for file in _cache_files(data)):
            raise CorpusError(
                f"Revision {commit[:7]} of {path} is not in the local cache, and the hub cannot be reached.",
                "Connect to the network once.",
            )
        return data

    datasets.load_dataset = load_pinned
    try:
        yield
    finally:
        datasets.load_dataset = load


def _cache_files(data: Any) -> list[str]:
    """The files that a data set, or each of its splits, lies in."""
    splits = data.values() if isinstance(data, dict) else [data]
    files = chain.from_iterable(getattr(split, "cache_files", ()) for split in splits)
    return [file["filename"] for file in files]


def _no_bar(items: Any = None, **_: Any) -> Any:
    return items


def _refuse_metric(name: str, *_: Any, **__: Any) -> None:
    raise CorpusError(
        f"The metric {name} would be downloaded as code, which is not run."
    )


def _of_the_harness(name: str) -> dict[str, Any]:
    """The task of this name, or the parts of the group. Indexing all takes 15 s: only its folder."""
    import lm_eval.tasks

    if problem := no_such_task(name):
        raise CorpusError(problem)
    folders = [str(folder) for folder in task_folders(name)]
    manager = lm_eval.tasks.TaskManager(include_path=folders, include_defaults=False)
    if name not in manager.task_index:
        raise CorpusError(
            f"lm-evaluation-harness has no task {name}.",
            "`lm_eval ls tasks` lists them.",
        )
    return dict(manager.load([name])["tasks"])


def _require_possible(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise CorpusError(f"{name} runs what a model writes, which is not done here.")
    if getattr(task, "MULTIMODAL", False):
        raise CorpusError(
            f"{name} asks about pictures or sounds, which these models do not read."
        )
    rules = task.get_config("generation_kwargs") or {}
    if _normal(rules)["do_sample"]:
        raise CorpusError(
            f"{name} draws its answers at random, so that two models cannot be paired."
        )
    if unknown := sorted(rules.keys() - _GREEDY):
        raise CorpusError(
            f"{name} sets {', '.join(unknown)}, which greedy decoding ignores."
        )
    metrics: Mapping[str, Any] = getattr(task, "_metric_fn_list", {})
    if None in metrics.values() and task.get_config("process_results") is None:
        lost = next(metric for metric, function in metrics.items() if function is None)
        raise CorpusError(
            f"{name} needs the metric {lost}, which would be downloaded as code."
        )


def _set_shots(task: Any, n_shots: int | None) -> None:
    """As the harness does: a task that says none keeps none."""
    usual = task.get_config("num_fewshot")
    if usual is None or (n_shots is not None and usual != 0):
        task.set_config(key="num_fewshot", value=n_shots or 0)


def _built(task: Any, limit: int | None) -> list[Any]:
    """Every request of a task, with the same examples each time."""
    _seed()
    task.set_fewshot_seed(seed=_SEED)
    task.build_all_requests(limit=limit, rank=0, world_size=1, cache_requests=False)
    return list(task.instances)


def _seed() -> None:
    """Some tasks shuffle their choices: alike for all models, and as the harness seeds."""
    random.seed(0)
    numpy.random.seed(_SEED)


def _n_written(request: Any) -> int:
    if request.request_type != "generate_until":
        return 0
    return int(_normal(request.args[1])["max_gen_toks"])


def _normal(rules: dict[str, Any]) -> dict[str, Any]:
    from lm_eval.models.utils import normalize_gen_kwargs

    return dict(normalize_gen_kwargs(rules))


def _identity(task: Any, requests: Sequence[Any]) -> str:
    config = {
        name: value
        for name, value in task.dump_config().items()
        if name not in ("metadata", "dataset_kwargs")
    }
    questions = [
        [
            request.request_type,
            request.doc_id,
            request.doc,
            request.idx,
            request.args,
            task.doc_to_target(request.doc),
        ]
        for request in requests
    ]
    plain = json.dumps([config, questions], sort_keys=True, default=str)
    return digest([version("lm_eval"), str(task.VERSION), _ADDRESS.sub("", plain)])


def _answered(name: str, task: Any, limit: int | None, lm: Any) -> QuestionSet:
    from lm_eval.evaluator import evaluate

    _seed()
    task.set_fewshot_seed(seed=_SEED)
    results = evaluate(
        lm=lm,
        task_dict={"tasks": {name: task}},
        limit=limit,
        bootstrap_iters=0,
        log_samples=True,
    )
    doc_to_choice = (
        task.doc_to_choice if task.OUTPUT_TYPE == "multiple_choice" else None
    )
    return samples_set("", name, results["samples"][name], results, doc_to_choice)


if __name__ == "__main__":
    main(*sys.argv[1:])
