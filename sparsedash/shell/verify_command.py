"""`sparsedash verify`: proves a folder again that `sparsedash export` or the dashboard has made."""

import argparse
from collections.abc import Callable
from dataclasses import replace

from sparsedash.reporting.files.export_words import proof_words
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.exports import Export
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Record
from sparsedash.schema.settings import RunSettings
from sparsedash.shell.progress_bar import ProgressBar
from sparsedash.shell.terminal import ask_for_quiet, path
from sparsedash.storage.data_dir import data_folder, in_full
from sparsedash.storage.export_folders import export_key_of
from sparsedash.storage.local_paths import local_path
from sparsedash.storage.store import WORK_PATIENCE_S, Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which folder, and the data folder that knows what it is to be."""
    parser.add_argument("folder", type=path, metavar="DIR", help="a folder that `sparsedash export` has made")
    kept = "where the results that it was made from are kept (%(default)s)"
    parser.add_argument("--data-dir", type=path, default=data_folder(), metavar="DIR", help=kept)
    ask_for_quiet(parser)


def prepare(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once the folder is one that this data folder knows. Raises SparseDashError."""
    folder = local_path(str(arguments.folder)).absolute()
    key = export_key_of(folder)
    store = Store(in_full(arguments.data_dir), patience_s=WORK_PATIENCE_S)
    found = store.get(Export, key)
    record = None if found is None else store.get(Record, found.settings.sparse)
    if found is None or record is None or record.pruned is None:
        raise SettingsError("--data-dir", str(store.folder), "the data folder that this was exported from")

    made = RunSettings(methods=(record.pruned.method,), sparsities_permille=(record.sparsity_permille,))

    def work() -> int:
        with ProgressBar(made, arguments.quiet) as bar:
            bar(Step("start", 0, 0))
            from sparsedash.engine.export.export import prove_again
            from sparsedash.engine.models.loading import ModelShelf

            proof = prove_again(found, folder, store, ModelShelf(), lambda step: bar(replace(step, point=0)))
        store.put(found.key, replace(found, proof=proof))
        print(proof_words(proof))
        return 0

    return work
