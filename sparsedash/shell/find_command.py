"""`sparsedash find`: how much can go within what may be lost."""

import argparse
from collections.abc import Callable
from typing import Any

from sparsedash.schema.progress import Step
from sparsedash.schema.records import Run
from sparsedash.schema.searches import FindResult, FindSettings
from sparsedash.shell.pack_command import name_key
from sparsedash.shell.printed_table import printed_table
from sparsedash.shell.progress_bar import ProgressBar
from sparsedash.shell.run_arguments import ask_for_search, ask_for_tolerance, asked_search, asked_store
from sparsedash.shell.run_command import stored_document
from sparsedash.shell.terminal import EXIT_BEYOND, ask_for_output, asked_output, warn
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a search, of what may be lost, and where the result goes."""
    ask_for_search(parser)
    ask_for_tolerance(parser)
    ask_for_output(parser)


def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = asked_search(arguments)
    write = asked_output(arguments)
    store = asked_store(arguments, settings.run((1,)))

    def work() -> int:
        run, document = found(settings, store, arguments.quiet)
        warn(run.warnings)
        write([*printed_table(document), "", document["find"]["sentence"], name_key(run)], document)
        return EXIT_BEYOND if document["find"]["answer_percent"] is None else 0

    return work


def found(settings: FindSettings, store: Store, quiet: bool = False) -> tuple[Run, dict[str, Any]]:
    """The run of a search, which is made as far as it is not stored, and its document."""
    with ProgressBar(None, quiet) as bar:
        bar(Step("start", 0, 0))
        # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
        from sparsedash.engine.run.find import find

        result: FindResult = find(settings, store, bar)
    run = store.get(Run, result.key)
    assert run is not None
    return run, stored_document(run, store, Tolerance(ratio=settings.ratio, points=settings.points), result)
