"""Results of a run from records in memory."""

from dataclasses import dataclass, replace
from typing import Any

from sparsedash.reporting.run_reports import run_document
from sparsedash.reporting.run_results import RunResults, run_results
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.records import Record, Run


@dataclass(eq=False)
class Held:
    """Records by their keys, and what a search has found."""

    records: dict[str, Record]
    found: FindResult | None = None

    def record(self, key: str) -> Record | None:
        return self.records.get(key)

    def search(self, key: str) -> FindResult | None:
        return self.found

    def why_missing(self, key: str) -> str:
        return "is no longer stored"


def results_of(run: Run, records: list[Record], found: FindResult | None = None, **more: Any) -> RunResults:
    """The results of a run with these records. more: as run_results takes it."""
    results = run_results(Held({record.key: record for record in records}, found), run, **more)
    assert results is not None
    return results


def document_of(run: Run, dense: Record, *sparse: Record) -> dict[str, Any]:
    """The document of a run with these records."""
    return run_document(results_of(run, [replace(dense, key=run.dense), *sparse]), dense, sparse)
