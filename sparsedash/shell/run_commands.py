"""`sparsedash run`, `find` and `time`: compute a run, a search or a timing, and print its result."""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sparsedash.reporting import deployment
from sparsedash.reporting.run_answer import answer_figures, answer_sentence
from sparsedash.reporting.run_reports import run_document
from sparsedash.reporting.run_results import StoredResults, run_results
from sparsedash.reporting.wording import source_note
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.pair_records import Timing, TimingSettings
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import FindResult, FindSettings, RunSettings
from sparsedash.shell.file_commands import short_run_key, stored_runs
from sparsedash.shell.flags import (
    add_run_flags,
    add_search_flags,
    add_tolerance_flags,
    open_store,
    run_from_flags,
    search_from_flags,
    tolerance_from_flags,
)
from sparsedash.shell.terminal import (
    EXIT_BEYOND,
    ProgressBar,
    add_output_flags,
    align_columns,
    print_warnings,
    result_writer,
    run_table,
)
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.store import Store


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a run, of what may be lost, and where the result goes."""
    add_run_flags(parser)
    add_tolerance_flags(parser)
    fails = f"exit with {EXIT_BEYOND} where a sparse model is beyond that"
    parser.add_argument("--fail-beyond", action="store_true", help=fails)
    strictly = f"exit with {EXIT_BEYOND} unless every measure that is judged is within that, in every sparse model"
    parser.add_argument("--fail-unless-within", action="store_true", help=strictly)
    add_output_flags(parser)


def prepare_run(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = run_from_flags(arguments)
    tolerance = tolerance_from_flags(arguments)
    # In this order: only a data folder that is there can be told from any other.
    store = open_store(arguments, settings)
    write = result_writer(arguments)

    def work() -> int:
        run = complete_run(settings, store, arguments.quiet)
        document = stored_run_document(run, store, tolerance)
        print_warnings(run.warnings)
        write([*run_table(document), "", *summary_lines(run, store, tolerance), short_run_key(run)], document)
        beyond = any(sparse["verdict"]["verdict"] == "beyond" for sparse in document["sparse"])
        failed = arguments.fail_beyond and beyond
        failed |= arguments.fail_unless_within and not all_within(document, settings.n_sparse)
        return EXIT_BEYOND if failed else 0

    return work


def all_within(document: dict[str, Any], n_sparse: int) -> bool:
    """Whether all of so many sparse models are within by every measure that is judged."""
    verdicts = [sparse["verdict"] for sparse in document["sparse"]]
    losses = [loss for verdict in verdicts for loss in (verdict["ratio"], verdict["points"]) if loss is not None]
    return len(verdicts) == n_sparse and all(loss["verdict"] == "within" for loss in losses)


def complete_run(settings: RunSettings, store: Store, quiet: bool = False) -> Run:
    """A run, which is computed as far as it is not stored."""
    with ProgressBar(settings, quiet) as bar:
        bar(Step("start", 0, 0))
        # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
        from sparsedash.engine.run import pipeline

        return pipeline.run(settings, store, bar)


def summary_lines(run: Run, store: Store, tolerance: Tolerance) -> list[str]:
    """What the pages open with: the answer in one sentence, and what it rests on."""
    found = run_results(StoredResults(store), run, tolerance)
    assert found is not None
    return [
        answer_sentence(found, ended=not run.finished),
        *answer_figures(found),
        *filter(None, [source_note(run.source_type)]),
    ]


def stored_run_document(
    run: Run, store: Store, tolerance: Tolerance, result: FindResult | None = None
) -> dict[str, Any]:
    """The document of a run whose records are stored. result: of a search."""
    dense = store.get(Record, run.dense)
    sparse = [store.get(Record, key) for key in run.sparse]
    assert dense is not None
    return run_document(run, dense, [record for record in sparse if record is not None], tolerance, result)


def add_find_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a search, of what may be lost, and where the result goes."""
    add_search_flags(parser)
    add_tolerance_flags(parser)
    add_output_flags(parser)


def prepare_find(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = search_from_flags(arguments)
    write = result_writer(arguments)
    store = open_store(arguments, settings.run((1,)))

    def work() -> int:
        run, document = complete_search(settings, store, arguments.quiet)
        print_warnings(run.warnings)
        write([*run_table(document), "", document["find"]["sentence"], short_run_key(run)], document)
        return EXIT_BEYOND if document["find"]["answer_percent"] is None else 0

    return work


def complete_search(settings: FindSettings, store: Store, quiet: bool = False) -> tuple[Run, dict[str, Any]]:
    """The run of a search, which is made as far as it is not stored, and its document."""
    with ProgressBar(None, quiet) as bar:
        bar(Step("start", 0, 0))
        # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
        from sparsedash.engine.run.find_sparsity import find_sparsity

        result: FindResult = find_sparsity(settings, store, bar)
    run = store.get(Run, result.key)
    assert run is not None
    return run, stored_run_document(run, store, Tolerance(ratio=settings.ratio, points=settings.points), result)


USUAL_SPARSITY = "20"


def add_time_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a run, with one sparsity; threads; where the result goes."""
    add_run_flags(parser)
    parser.set_defaults(sparsity=USUAL_SPARSITY)
    threads = "threads of the processor (as many as torch takes by itself)"
    parser.add_argument("--threads", type=int, metavar="N", help=threads)
    add_output_flags(parser, "every sample and the result")


def prepare_time(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = run_from_flags(arguments)
    _refuse_what_is_not_timed(settings)
    request = TimingSettings(dense="-", sparse="-", n_threads=arguments.threads)
    write = result_writer(arguments)
    store = open_store(arguments, settings)

    def work() -> int:
        timing = _complete_timing(settings, request, store, arguments.quiet)
        print_warnings(next((run.warnings for run in stored_runs(store) if timing.sparse in run.sparse), ()))
        document = {"model": settings.model, "settings": asdict(settings), "timing": asdict(timing)}
        write(timing_lines(timing), document)
        return 0

    return work


def timing_lines(timing: Timing) -> list[str]:
    """The lines that are printed: a table, and what it rests on."""
    table = align_columns([list(deployment.SPEED_HEAD), *deployment.speed_rows(timing)], numbers=True)
    return [*table, deployment.timing_conditions(timing), deployment.ceiling_words(timing)]


def _refuse_what_is_not_timed(settings: RunSettings) -> None:
    points = settings.points
    if len(points) != 1 or points[0][1] == 0:
        raise SparseDashError("One model is timed at once.", "Name one --method and one --sparsity above 0.")
    if not points[0][0].takes_channels:
        raise SparseDashError(
            "Single weights at zero are not timed: the matrices keep their shapes and their bytes, so no speed-up is "
            "expected from them.",
            "Name a --method that removes channels.",
        )


def _complete_timing(settings: RunSettings, request: TimingSettings, store: Store, quiet: bool) -> Timing:
    with ProgressBar(settings, quiet) as bar:
        bar(Step("start", 0, 0))
        # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
        from sparsedash.engine.comparison.timing import time_run

        return time_run(settings, request, store, bar)
