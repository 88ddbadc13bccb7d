"""`sparsedash find`: how much can go within what may be lost."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from sparsedash.schema.progress import Step
from sparsedash.schema.records import Run
from sparsedash.schema.searches import FindResult, FindSettings
from sparsedash.shell.printed_table import printed_table
from sparsedash.shell.progress_bar import ProgressBar
from sparsedash.shell.run_arguments import ask_for_search, ask_for_tolerance, asked_search, asked_store
from sparsedash.shell.run_command import stored_document
from sparsedash.shell.terminal import EXIT_BEYOND, path
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.store import Store
from sparsedash.storage.whole_file import writable_file, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a search, of what may be lost, and where the result goes."""
    ask_for_search(parser)
    ask_for_tolerance(parser)
    parser.add_argument("--json", type=path, metavar="FILE", help="write the whole result there")


def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = asked_search(arguments)
    file = writable_file(arguments.json, "--json") if arguments.json else None
    store = asked_store(arguments, settings.run((1,)))

    def work() -> int:
        document = found(settings, store)
        print(*printed_table(document), "", document["find"]["sentence"], sep="\n")
        if file is not None:
            write_whole(file, json.dumps(document, indent=1, allow_nan=False))
        return EXIT_BEYOND if document["find"]["answer_percent"] is None else 0

    return work


def found(settings: FindSettings, store: Store) -> dict[str, Any]:
    """The document of a search, which is made as far as it is not stored."""
    with ProgressBar(None) as bar:
        bar(Step("start", 0, 0))
        # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
        from sparsedash.engine.run.find import find

        result: FindResult = find(settings, store, bar)
    run = store.get(Run, result.key)
    assert run is not None
    return stored_document(run, store, Tolerance(ratio=settings.ratio, points=settings.points), result)
