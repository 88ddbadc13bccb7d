"""`sparsedash run`, `find` and `time`: compute a run, a search or a timing, and print its result.

The engine is imported only when the work begins: it takes seconds, and --help or a typing mistake
must not wait for it.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

from sparsedash.catalog.export_forms import llama_cpp_problem
from sparsedash.reporting import deployment
from sparsedash.reporting.next_step import next_step
from sparsedash.reporting.run_answer import answer_figures, estimate_words
from sparsedash.reporting.run_reports import run_document
from sparsedash.reporting.run_results import RunResults, run_results
from sparsedash.reporting.task_words import (
    idle_limits,
    task_remarks,
    task_rows,
    tasks_sentence,
)
from sparsedash.reporting.verdicts import early_stopping_words
from sparsedash.reporting.wording import (
    newer_words,
    record_names,
    revision_words,
    source_note,
)
from sparsedash.schema.errors import JobError, SettingsError, SparseDashError
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.pair_records import ContinuationSettings, Timing, TimingSettings
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import RunSettings
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.service.estimates import MAX_MINUTES, healing_steps, run_workload
from sparsedash.service.hub_revisions import newer_revisions, pinned
from sparsedash.service.machine_speed import MachineSpeed
from sparsedash.service.model_lookup import named_model
from sparsedash.service.run_checks import (
    RequestRules,
    count_passages,
    lacks_text,
    run_problems,
)
from sparsedash.service.stored_results import ResultCache, StoredResults
from sparsedash.shell import terminal
from sparsedash.shell.file_commands import short_run_key
from sparsedash.shell.flags import (
    open_store_for,
    quantised_from_flags,
    require_startable,
    run_from_flags,
    search_from_flags,
    tolerance_from_flags,
)
from sparsedash.storage.hub_reach import HubReach
from sparsedash.storage.store import Store

TIMING_FORMAT = "sparsedash.time/1"
T = TypeVar("T")


def run_command(arguments: argparse.Namespace) -> terminal.Work:
    """Calibrate, prune and evaluate a model."""
    settings = quantised_from_flags(run_from_flags(arguments), arguments)
    tolerance = tolerance_from_flags(arguments)
    # Before the file of the result: only a data folder that exists can be told from any other.
    settings, store = open_store_for(settings, arguments)
    if n_steps := _healing_steps(settings, store, arguments):
        settings = settings.healed(n_steps)
        require_startable(settings, store)
    write = terminal.result_writer(arguments)
    yield
    run = complete_run(settings, store, arguments.quiet)
    results, document = stored_run_document(run, store, tolerance)
    tasks = chain.from_iterable(answers.results for answers in results.tasks.values())
    document["warnings"] += idle_limits(list(tasks), tolerance)
    terminal.print_warnings(document["warnings"])
    summary = [
        document["sentence"],
        estimate_words(results),
        *answer_figures(results),
        early_stopping_words(results.records),
        document["next"],
        source_note(run.source_type),
        *revision_lines(run, store),
    ]
    lines = [
        *terminal.run_table(results),
        "",
        *terminal.prompt_lines(StoredResults(store), results),
        *task_lines(results),
        *filter(None, summary),
        short_run_key(run),
    ]
    write(lines, document)
    if arguments.fail_unless_within and not all_within(document, settings.n_sparse):
        return terminal.EXIT_BEYOND
    verdicts = [sparse["verdict"]["verdict"] for sparse in document["sparse"]]
    return terminal.EXIT_BEYOND if arguments.fail_beyond and "beyond" in verdicts else 0


def _healing_steps(
    settings: RunSettings, store: Store, arguments: argparse.Namespace
) -> int:
    """Steps that --heal-steps names, or that --heal MINUTES takes here. Raises SettingsError."""
    minutes = float(arguments.heal)
    n_steps = int(arguments.heal_steps)
    if not 0 <= minutes <= MAX_MINUTES:
        raise SettingsError("--heal", minutes, f"0 to {MAX_MINUTES:,} minutes")
    if minutes and n_steps:
        raise SettingsError(
            "--heal",
            message="--heal and --heal-steps say the same.",
            advice="Give one of them.",
        )
    if not minutes:
        return n_steps
    # What cannot be healed is refused before the machine is measured.
    settings.healed(1)
    named = named_model(settings.model, store)
    speed = MachineSpeed(store)
    try:
        describe = partial(
            run_workload,
            shape=named.shape if named else None,
            speeds=speed.measured(),
            data_dir=store.folder,
        )
        return healing_steps(minutes, settings, ResultCache(store).runs(), describe)
    finally:
        speed.close()


def all_within(document: dict[str, Any], n_sparse: int) -> bool:
    """True if all n_sparse models are within the tolerance by every judged measure and task."""
    verdicts = [sparse["verdict"] for sparse in document["sparse"]]
    if len(verdicts) < n_sparse:
        return False
    return all(
        verdict["verdict"] == "within"
        and (verdict["points"] is None or verdict["points"]["verdict"] == "within")
        for verdict in verdicts
    )


def task_lines(results: RunResults) -> Iterator[str]:
    """The verdict of every model over the run's tasks, as sentence and table."""
    for record, answers in results.tasks.items():
        sentences = [
            tasks_sentence(results.names[record], answers.results),
            task_remarks(answers.results),
            *answers.notes,
        ]
        yield from map(terminal.one_line, filter(None, sentences))
        if answers.results:
            yield from terminal.align_columns(task_rows(answers.results), numbers=True)
        yield ""


def complete_run(settings: RunSettings, store: Store, quiet: bool = False) -> Run:
    """The run; stored parts are not computed again."""
    settings = pinned(settings, store, HubReach(), with_token=True)
    with terminal.ProgressBar(settings, quiet) as bar:
        from sparsedash.engine.run import pipeline

        return pipeline.run(settings, store, bar)


def revision_lines(run: Run, store: Store) -> list[str]:
    """Which revisions a run read on the hub, and which are newer."""
    words = revision_words(run)
    read = f"Read from the hub: {words}." if words else ""
    return [read, newer_words(newer_revisions(run, store))]


def _still_stored(result: T | None) -> T:
    """The record stored a moment ago. Raises JobError where it was deleted meanwhile."""
    if result is None:
        raise JobError(
            "Results of this run were deleted while it ran.", "Run it again."
        )
    return result


def stored_run_document(
    run: Run, store: Store, tolerance: Tolerance
) -> tuple[RunResults, dict[str, Any]]:
    """The results of a stored run, and its document."""
    stored = StoredResults(store)
    results = _still_stored(run_results(stored, run, tolerance))
    records = [
        _still_stored(store.get(Record, model.record.key)) for model in results.models
    ]
    rules = RequestRules(
        lacks=partial(lacks_text, store=store, hub=HubReach()),
        n_passages=partial(count_passages, data_dir=store.folder),
        problems=partial(
            run_problems,
            data_dir=store.folder,
            named=named_model(run.settings.model, store),
        ),
    )
    document = run_document(results, records[0], records[1:], next_step(results, rules))
    models = [document["dense"], *document["sparse"]]
    for model, record in zip(models, records, strict=True):
        continuations = []
        for prompt in run.settings.prompts:
            request = ContinuationSettings(
                left=record.key, right=record.key, prompt=prompt
            )
            continuation = stored.continuation(request)
            continuations.append(continuation.left if continuation else None)
        model["continuations"] = continuations
    return results, document


def find_command(arguments: argparse.Namespace) -> terminal.Work:
    """Find the largest sparsity within the tolerance."""
    settings = quantised_from_flags(search_from_flags(arguments), arguments)
    write = terminal.result_writer(arguments)
    settings, store = open_store_for(settings, arguments)
    if n_steps := _healing_steps(settings.run((1,)), store, arguments):
        settings = settings.healed(n_steps)
        require_startable(settings, store)
    yield
    settings = pinned(settings, store, HubReach(), with_token=True)
    with terminal.ProgressBar(None, arguments.quiet) as bar:
        from sparsedash.engine.run.search import find_sparsity

        search: FindResult = find_sparsity(settings, store, bar)
    run = _still_stored(store.get(Run, search.key))
    terminal.print_warnings(run.warnings)
    results, document = stored_run_document(run, store, tolerance_from_flags(arguments))
    lines = [
        *terminal.run_table(results),
        "",
        *task_lines(results),
        document["find"]["sentence"],
        *filter(None, revision_lines(run, store)),
        short_run_key(run),
    ]
    write(lines, document)
    return terminal.EXIT_BEYOND if document["find"]["answer_percent"] is None else 0


def time_command(arguments: argparse.Namespace) -> terminal.Work:
    """Measure the speed of a sparse model versus its dense one, or in llama.cpp of all models."""
    settings = run_from_flags(arguments)
    if len(settings.points) != 1:
        raise SparseDashError(
            "Only one model can be timed.",
            "Name one --method and one --sparsity above 0.",
        )
    if not settings.points[0].pruning.is_structured:
        raise SparseDashError(
            "Zeros in single weights give no speed-up, so they are not timed.",
            "Name a --method that removes channels.",
        )
    settings = quantised_from_flags(settings, arguments)
    request = TimingSettings(
        dense="-", sparse="-", n_threads=arguments.threads, runtime=arguments.runtime
    )
    in_torch = request.runtime == "torch"
    if in_torch and settings.quantises:
        raise SettingsError(
            "--quantise",
            message="Quantised models run in llama.cpp alone.",
            advice="Add --runtime llama.cpp, or leave out --quantise.",
        )
    write = terminal.result_writer(arguments)
    settings, store = open_store_for(settings, arguments)
    if not in_torch:
        named = named_model(settings.model, store)
        family = named.family if named else None
        if problem := llama_cpp_problem(settings.model, family, settings.methods):
            raise SettingsError(
                "--runtime",
                request.runtime,
                "torch for this model",
                f"Reason: {problem}.",
            )
    yield
    run, timings = _timed_run(settings, request, store, arguments.quiet)
    terminal.print_warnings(run.warnings)
    document: dict[str, Any] = {
        # What begins with a format of ours may be overwritten by the next.
        "format": TIMING_FORMAT,
        "model": settings.model,
        "settings": asdict(settings),
    }
    lines = list[str]()
    if in_torch:
        document["timing"] = asdict(timings[0])
        lines += _timing_lines(timings[0])
    else:
        document["timings"] = []
        names = record_names(run)
        for timing in timings:
            name = names[timing.sparse]
            document["timings"].append({"name": name, **asdict(timing)})
            lines += [name, *_timing_lines(timing), ""]
    write(lines, document)
    return 0


def _timing_lines(timing: Timing) -> list[str]:
    table = deployment.speed_table("", timing)
    return [
        *terminal.align_columns([table.head, *table.rows], numbers=True),
        deployment.timing_conditions(timing),
        deployment.ceiling_words(timing),
    ]


def _timed_run(
    settings: RunSettings, request: TimingSettings, store: Store, quiet: bool
) -> tuple[Run, list[Timing]]:
    """A run, and its timings: by torch of its last model, in llama.cpp of each.

    request: without the keys of the run's records.
    """
    settings = pinned(settings, store, HubReach(), with_token=True)
    with terminal.ProgressBar(settings, quiet) as bar:
        from sparsedash.engine.comparison.llama_timing import time_files
        from sparsedash.engine.comparison.model_pair import ModelPairCache
        from sparsedash.engine.comparison.torch_timing import time_models
        from sparsedash.engine.models.loading import ModelCache
        from sparsedash.engine.run import pipeline

        model_cache = ModelCache()
        run = pipeline.run(settings, store, bar, model_cache)
        requests = [replace(request, dense=run.dense, sparse=key) for key in run.sparse]
        if request.runtime == "torch":
            return run, [
                time_models(requests[-1], store, ModelPairCache(model_cache), bar)
            ]
        return run, [
            time_files(request, store, model_cache, bar) for request in requests
        ]
