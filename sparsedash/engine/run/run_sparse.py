"""The sparse models of a run as they are asked: pruned, with what is put on record about them."""

from collections.abc import Callable, Sequence
from functools import partial

from sparsedash.engine.calibration.mismatch import PassageActivations, mismatch_warning
from sparsedash.engine.run.one_walk import OneWalk
from sparsedash.engine.run.pruned_record import OnRecord
from sparsedash.engine.run.run_calibration import RunParts
from sparsedash.engine.run.run_pruning import RunPruning
from sparsedash.engine.run.run_records import RunRecords, Unanswered
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned


class RunSparse:
    """Makes sparse models ready to answer, each before it is asked, or several in one walk with their passages."""

    def __init__(self, parts: RunParts, pruning: RunPruning, records: RunRecords) -> None:
        self._settings, self._store, self._model = parts.settings, parts.store, parts.model
        self._texts, self._run_log = parts.texts, parts.run_log
        self._pruning, self._records = pruning, records
        self._activations: dict[str, PassageActivations] = {}
        self._told_of_mismatch = False

    def key(self, method: MethodSettings, permille: int) -> str:
        """The key of the record of a model that is pruned like this."""
        return self._records.key((self._pruning.calibration(method).keys.statistics, method, permille))

    def whole(self, method: MethodSettings, permille: int) -> Unanswered:
        """A model all of whose blocks are made."""
        made = self._pruning.whole(method, partial(self._begun, method, permille), OnRecord.block)
        facts = self._described(made, method, permille)
        return self._unanswered(made, method, permille, lambda: facts)

    def in_one_walk(self, points: Sequence[int]) -> tuple[OneWalk, list[Unanswered]]:
        """These models, by methods that do not look back, and the walk that makes them. points: places in the run's."""
        asked = [self._settings.points[point] for point in points]
        begun = [self._begun(method, permille) for method, permille in asked]
        missing = self._pruning.missing([method for method, _ in asked])
        walk = OneWalk(missing, begun, self._run_log, points[-1])

        def facts(made: OnRecord, method: MethodSettings, permille: int) -> Pruned:
            walk.finish()
            return self._described(made, method, permille)

        return walk, [
            self._unanswered(made, *each, partial(facts, made, *each)) for made, each in zip(begun, asked, strict=True)
        ]

    def warn_of_mismatch(self, made: Pruned) -> None:
        """At most once a run: the text is the same for all its sparse models."""
        if not self._told_of_mismatch:
            warning = mismatch_warning(made)
            self._run_log.warn(warning)
            self._told_of_mismatch = warning is not None

    def _begun(self, method: MethodSettings, permille: int) -> OnRecord:
        made = self._pruning.sparse_model(method, permille)
        weights, on_step = self._settings.calibration.token_weights, self._run_log.on_step
        loaded, passages = self._model.loaded, self._texts.passages
        found = PassageActivations(self._store, loaded, passages, made.watched, on_step, token_weights=weights)
        # Models that look at the same inputs read the passages together.
        return OnRecord(made, self._activations.setdefault(found.key, found).of)

    def _described(self, made: OnRecord, method: MethodSettings, permille: int) -> Pruned:
        facts = made.described(method, self._settings.calibration, permille)
        self.warn_of_mismatch(facts)
        return facts

    def _unanswered(
        self, made: OnRecord, method: MethodSettings, permille: int, facts: Callable[[], Pruned]
    ) -> Unanswered:
        return Unanswered(self.key(method, permille), label(permille), facts, made.model.applied)


def label(permille: int) -> str:
    """What a sparse model is called where its record is spoken of."""
    return f"{permille / 10:g} % sparse"
