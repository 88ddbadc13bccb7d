"""`sparsedash run`: calibrate, prune and evaluate a model, print what was lost."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from sparsedash.reporting.files.run_json import run_document
from sparsedash.reporting.run_answer import answer, figures
from sparsedash.reporting.run_results import StoredResults, run_results
from sparsedash.reporting.wording import source_note
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Record, Run
from sparsedash.schema.searches import FindResult
from sparsedash.schema.settings import RunSettings
from sparsedash.shell.printed_table import printed_table
from sparsedash.shell.progress_bar import ProgressBar
from sparsedash.shell.run_arguments import ask_for_run, ask_for_tolerance, asked_settings, asked_store, asked_tolerance
from sparsedash.shell.terminal import EXIT_BEYOND, path
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.store import Store
from sparsedash.storage.whole_file import writable_file, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a run, of what may be lost, and where the result goes."""
    ask_for_run(parser)
    ask_for_tolerance(parser)
    fails = f"exit with {EXIT_BEYOND} where a sparse model is beyond that"
    parser.add_argument("--fail-beyond", action="store_true", help=fails)
    parser.add_argument("--json", type=path, metavar="FILE", help="write the whole result there")


def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = asked_settings(arguments)
    tolerance = asked_tolerance(arguments)
    # In this order: only a data folder that is there can be told from any other.
    store = asked_store(arguments, settings)
    file = writable_file(arguments.json, "--json") if arguments.json else None

    def work() -> int:
        run = ran(settings, store)
        document = stored_document(run, store, tolerance)
        print(*printed_table(document), "", *opening(run, store, tolerance), sep="\n")
        if file is not None:
            write_whole(file, json.dumps(document, indent=1, allow_nan=False))
        beyond = any(sparse["verdict"]["verdict"] == "beyond" for sparse in document["sparse"])
        return EXIT_BEYOND if arguments.fail_beyond and beyond else 0

    return work


def ran(settings: RunSettings, store: Store) -> Run:
    """A run, which is computed as far as it is not stored."""
    with ProgressBar(settings) as bar:
        bar(Step("start", 0, 0))
        # Only now: torch takes seconds to import, and --help or a typing mistake must not wait for it.
        from sparsedash.engine.run import pipeline

        return pipeline.run(settings, store, bar)


def opening(run: Run, store: Store, tolerance: Tolerance) -> list[str]:
    """What the pages open with: the answer in one sentence, and what it rests on."""
    found = run_results(StoredResults(store), run, tolerance)
    assert found is not None
    return [answer(found, ended=not run.finished), *figures(found), *filter(None, [source_note(run.source_type)])]


def stored_document(run: Run, store: Store, tolerance: Tolerance, result: FindResult | None = None) -> dict[str, Any]:
    """The document of a run whose records are stored. result: of a search."""
    dense = store.get(Record, run.dense)
    sparse = [store.get(Record, key) for key in run.sparse]
    assert dense is not None
    return run_document(run, dense, [record for record in sparse if record is not None], tolerance, result)
