"""Results of a run from records in memory."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from sparsedash.reporting.run_reports import run_document
from sparsedash.reporting.run_results import RunResults, run_results
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.records import Record, Run
from sparsedash.service.answer_cache import AnswerCache


@dataclass(eq=False)
class Held:
    """Records and sets of answers by their keys, and what a search has found."""

    records: dict[str, Record]
    found: FindResult | None = None
    sets: dict[str, QuestionSet] = field(default_factory=dict)

    @property
    def answers(self) -> AnswerCache:
        kept = SimpleNamespace(
            has=lambda kind, key: key in self.sets,
            get=lambda kind, key: self.sets.get(key),
        )
        kept.recall = kept.remember = lambda *note: None
        return AnswerCache(kept)

    def record(self, key: str) -> Record | None:
        return self.records.get(key)

    def written_at(self, key: str) -> float | None:
        return 1.0 if key in self.records else None

    def search(self, key: str) -> FindResult | None:
        return self.found

    def why_missing(self, key: str) -> str:
        return "is no longer stored"


def results_of(
    run: Run,
    records: list[Record],
    found: FindResult | None = None,
    sets: dict[str, QuestionSet] | None = None,
    **more: Any,
) -> RunResults:
    """The results of a run with these records. sets: of answers, by their keys. more: as
    run_results takes it.
    """
    results = run_results(
        Held(
            {record.key: record for record in records},
            found,
            sets or {},
        ),
        run,
        **more,
    )
    assert results is not None
    return results


def document_of(run: Run, dense: Record, *sparse: Record) -> dict[str, Any]:
    """The document of a run with these records."""
    return run_document(
        results_of(run, [replace(dense, key=run.dense), *sparse]),
        dense,
        sparse,
    )
