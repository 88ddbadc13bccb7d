"""A finished run as one file for another data folder, and the other way."""

from collections.abc import Callable

from sparsedash.schema.errors import JobError
from sparsedash.schema.records import Run
from sparsedash.storage.run_files import keep_run, read_run_file, run_file
from sparsedash.storage.store import Store


class RunTransfer:
    """Takes runs out of one data folder and brings them in. run: reads one. Every method may raise StoreError."""

    def __init__(self, store: Store, run: Callable[[str], Run | None]) -> None:
        self._store, self._run = store, run

    def packed(self, key: str) -> bytes:
        """The file of the run with this key. Raises JobError where it has not finished, or is not there any more."""
        run = self._run(key)
        if run is None or not run.finished:
            raise JobError("This run has not finished.", "Wait until it has, or start it again.")
        return run_file(run, self._store)

    def opened(self, data: bytes) -> Run:
        """Keep the run of such a file, and return it as it is here now; what is here already stays as it is.

        Raises StoreError, with nothing kept, for what is no such file or was changed.
        """
        return keep_run(read_run_file(data), self._store)
