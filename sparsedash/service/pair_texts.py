"""What models wrote beside each other, and how far they were apart: by which records, as the job table knows."""

from collections.abc import Iterator
from typing import NamedTuple

from sparsedash.jobs.table import JobTable
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.pair_records import Continuation, Divergence
from sparsedash.schema.pair_settings import ContinuationSettings, DivergenceSettings
from sparsedash.schema.settings import settings_from_plain


class PairText(NamedTuple):
    """One of them: its kind and its key in the store, and the records whose models were asked."""

    kind: type[Continuation] | type[Divergence]
    key: str
    records: frozenset[str]


def pair_texts(table: JobTable) -> Iterator[PairText]:
    """All that were ever asked for here, whether they are stored or not: what is stored does not name its records."""
    for job in table.of_kinds("continuation", "divergence"):
        try:
            if job.kind == "divergence":
                compared = settings_from_plain(DivergenceSettings, job.settings)
                yield PairText(Divergence, job.key, frozenset((compared.left, compared.right)))
            else:
                asked = settings_from_plain(ContinuationSettings, job.settings)
                yield PairText(Continuation, job.key, frozenset((asked.left, asked.right, *asked.others)))
        except SettingsError:
            # Asked for by another version, in a form unknown here.
            continue
