"""`sparsedash time`: how fast a sparse model is beside its dense one; what is not known of the run yet is run first."""

import argparse
from collections.abc import Callable
from dataclasses import asdict

from sparsedash.reporting.gains import speed
from sparsedash.schema.errors import SparseDashError
from sparsedash.schema.pair_records import Timing
from sparsedash.schema.pair_settings import TimingSettings
from sparsedash.schema.progress import Step
from sparsedash.schema.settings import RunSettings
from sparsedash.shell.pack_command import stored_runs
from sparsedash.shell.printed_table import aligned
from sparsedash.shell.progress_bar import ProgressBar
from sparsedash.shell.run_arguments import ask_for_run, asked_settings, asked_store
from sparsedash.shell.terminal import ask_for_output, asked_output, warn
from sparsedash.storage.store import Store

USUAL_SPARSITY = "20"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a run, with one sparsity; threads; where the result goes."""
    ask_for_run(parser)
    parser.set_defaults(sparsity=USUAL_SPARSITY)
    threads = "threads of the processor (as many as torch takes by itself)"
    parser.add_argument("--threads", type=int, metavar="N", help=threads)
    ask_for_output(parser, "every sample and the result")


def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = asked_settings(arguments)
    _refuse_what_is_not_timed(settings)
    request = TimingSettings(dense="-", sparse="-", n_threads=arguments.threads)
    write = asked_output(arguments)
    store = asked_store(arguments, settings)

    def work() -> int:
        timing = _timed(settings, request, store, arguments.quiet)
        warn(next((run.warnings for run in stored_runs(store) if timing.sparse in run.sparse), ()))
        document = {"model": settings.model, "settings": asdict(settings), "timing": asdict(timing)}
        write(printed_timing(timing), document)
        return 0

    return work


def printed_timing(timing: Timing) -> list[str]:
    """The lines that are printed: a table, and what it rests on."""
    table = aligned([list(speed.HEAD), *speed.rows(timing)], numbers=True)
    return [*table, speed.circumstances(timing), speed.explained(timing)]


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


def _timed(settings: RunSettings, request: TimingSettings, store: Store, quiet: bool) -> Timing:
    with ProgressBar(settings, quiet) as bar:
        bar(Step("start", 0, 0))
        # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
        from sparsedash.engine.timing.timed_run import timed_run

        return timed_run(settings, request, store, bar)
