"""`sparsedash run`: calibrate, prune and evaluate a model, print what was lost."""

import argparse
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
from sparsedash.shell.pack_command import name_key
from sparsedash.shell.printed_table import printed_table
from sparsedash.shell.progress_bar import ProgressBar
from sparsedash.shell.run_arguments import ask_for_run, ask_for_tolerance, asked_settings, asked_store, asked_tolerance
from sparsedash.shell.terminal import EXIT_BEYOND, ask_for_output, asked_output, warn
from sparsedash.stats.tolerance import Tolerance
from sparsedash.storage.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of a run, of what may be lost, and where the result goes."""
    ask_for_run(parser)
    ask_for_tolerance(parser)
    fails = f"exit with {EXIT_BEYOND} where a sparse model is beyond that"
    parser.add_argument("--fail-beyond", action="store_true", help=fails)
    strictly = f"exit with {EXIT_BEYOND} unless every measure that is judged is within that, in every sparse model"
    parser.add_argument("--fail-unless-within", action="store_true", help=strictly)
    ask_for_output(parser)


def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once all that was asked for is possible. Raises SparseDashError."""
    settings = asked_settings(arguments)
    tolerance = asked_tolerance(arguments)
    # In this order: only a data folder that is there can be told from any other.
    store = asked_store(arguments, settings)
    write = asked_output(arguments)

    def work() -> int:
        run = ran(settings, store, arguments.quiet)
        document = stored_document(run, store, tolerance)
        warn(run.warnings)
        write([*printed_table(document), "", *opening(run, store, tolerance), name_key(run)], document)
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


def ran(settings: RunSettings, store: Store, quiet: bool = False) -> Run:
    """A run, which is computed as far as it is not stored."""
    with ProgressBar(settings, quiet) as bar:
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
