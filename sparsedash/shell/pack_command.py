"""`sparsedash pack` and `sparsedash unpack`: a finished run as one file, for another machine."""

import argparse
from collections.abc import Callable

from sparsedash.reporting import wording
from sparsedash.schema.errors import JobError, SettingsError, StoreError
from sparsedash.schema.records import Run
from sparsedash.shell.terminal import path
from sparsedash.storage.data_dir import data_folder, in_full
from sparsedash.storage.local_paths import local_path
from sparsedash.storage.run_files import MAX_BYTES, SUFFIX, keep_run, read_run_file, run_file
from sparsedash.storage.store import WORK_PATIENCE_S, Store
from sparsedash.storage.whole_file import writable_file, write_whole

_FEWEST_DIGITS = 6


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, and where its file goes."""
    parser.add_argument("run", metavar="RUN", help="its key, or the beginning of it, as in the address of its page")
    parser.add_argument("file", type=path, metavar="FILE", help=f"the file to write, {SUFFIX} at its end")
    _ask_for_data_folder(parser)


def prepare_pack(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once the run is found and the file can be written. Raises SparseDashError."""
    store = Store(in_full(arguments.data_dir), patience_s=WORK_PATIENCE_S)
    run = _named(arguments.run, store)
    file = writable_file(arguments.file, "FILE")

    def work() -> int:
        packed = run_file(run, store)
        write_whole(file, packed)
        print(f"{wording.title_of(run)}: {wording.size(len(packed))} in {file}")
        return 0

    return work


def add_unpack_arguments(parser: argparse.ArgumentParser) -> None:
    """Which file, and the data folder that it goes to."""
    parser.add_argument("file", type=path, metavar="FILE", help="what `sparsedash pack` has written")
    _ask_for_data_folder(parser)


def prepare_unpack(arguments: argparse.Namespace) -> Callable[[], int]:
    """The work, once the file is a whole run. Raises SparseDashError."""
    file = local_path(str(arguments.file)).absolute()
    if not file.is_file():
        raise SettingsError("FILE", str(file), "a file that `sparsedash pack` has written")
    try:
        with file.open("rb") as stream:
            found = read_run_file(stream.read(MAX_BYTES + 1))
    except OSError as error:
        raise StoreError(f"{file} cannot be read: {error.strerror}.") from error
    store = Store(in_full(arguments.data_dir), patience_s=WORK_PATIENCE_S)

    def work() -> int:
        run = keep_run(found, store)
        print(f"{wording.title_of(run)}: /?run={run.key}")
        return 0

    return work


def _ask_for_data_folder(parser: argparse.ArgumentParser) -> None:
    kept = "where results are kept (%(default)s)"
    parser.add_argument("--data-dir", type=path, default=data_folder(), metavar="DIR", help=kept)


def _named(beginning: str, store: Store) -> Run:
    keys = [key for key in store.keys(Run) if key.startswith(beginning)]
    if len(beginning) < _FEWEST_DIGITS or len(keys) != 1:
        known = "no run" if not keys else f"{len(keys)} runs"
        allowed = f"the key of one run, {_FEWEST_DIGITS} digits of it at least; {known} in {store.folder} begins so"
        raise SettingsError("RUN", beginning, allowed)
    run = store.get(Run, keys[0])
    if run is None or not run.finished:
        raise JobError("This run has not finished.", "Wait until it has, or start it again.")
    return run
