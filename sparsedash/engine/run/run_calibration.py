"""One calibration of a run's model, made when its statistics are not in the store (any more)."""

from dataclasses import dataclass
from functools import cached_property

from sparsedash.engine.calibration.cache import CalibrationCache
from sparsedash.engine.calibration.gathered_on import GatheredOn
from sparsedash.engine.calibration.statistics import Gathering, calibrating, enough_tokens, few_tokens_warning
from sparsedash.engine.calibration.walked import Walked
from sparsedash.engine.evaluation.questions import n_leaked
from sparsedash.engine.run.run_log import RunLog
from sparsedash.engine.run.run_model import RunModel
from sparsedash.engine.run.run_texts import RunTexts
from sparsedash.schema import notes
from sparsedash.schema.cache_keys import CalibrationKeys, calibration_keys, shares_read
from sparsedash.schema.settings import SELF, RunSettings
from sparsedash.storage.halfway import Halfway
from sparsedash.storage.store import Store

_DIAGONAL = "diagonal"
"""Noted where there were too few tokens for whole second moments."""


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """What the parts of a run share: what is asked for, where results are kept, its model and texts, what it took."""

    settings: RunSettings
    store: Store
    model: RunModel
    texts: RunTexts
    run_log: RunLog


class RunCalibration:
    """What the methods that share one calibration text find in the store, or have collected.

    plain_share: of that text, how much is plain; see MethodSettings.
    """

    def __init__(self, parts: RunParts, plain_share: float) -> None:
        self._settings, self._reads_text = parts.settings.calibration, plain_share in shares_read(parts.settings)
        self._solves = parts.settings.solves
        self._store, self._run_log = parts.store, parts.run_log
        self._model, self._texts, self._share = parts.model, parts.texts, plain_share
        self._gathered = GatheredOn(self._begun, self._note_calibrated)

    @cached_property
    def keys(self) -> CalibrationKeys:
        """The keys of what the calibration leaves."""
        model, text = self._model, self._texts.calibration_identity(self._share)
        return calibration_keys(model.identity, model.dtype, text, self._settings)

    @property
    def is_read(self) -> bool:
        """Whether a method of the run reads this text; for the others alone nobody waits for it."""
        return self._reads_text

    @property
    def is_known(self) -> bool:
        """Whether the store has what the calibration leaves, as far as is known before it is read."""
        return self._store.recall(notes.calibrated(self.keys.statistics)) is not None

    @property
    def is_whole(self) -> bool:
        """Whether what the store has is enough for every method, whole second moments included."""
        return self._store.recall(notes.calibrated(self.keys.statistics)) != _DIAGONAL

    @property
    def warning(self) -> str | None:
        """What a person should know about the calibration in the store; None or nothing where there is nothing."""
        return self._store.recall(notes.calibration_warning(self.keys.statistics))

    @property
    def leak_warning(self) -> str | None:
        """A warning when passages stand in the calibration text; None for text that the model writes itself."""
        if self._settings.corpus == SELF:
            return None
        passages = self._texts.passages
        note = notes.leaked_passages(self.keys.statistics, passages.key)
        found = self._store.recall(note)
        if found is None:
            decode = self._model.loaded.tokenizer.decode
            found = str(n_leaked(passages, map(decode, self.sequences)))
            self._store.remember(note, found)
        if found == "0":
            return None
        return (
            f"{int(found):,} of {len(passages.indices):,} passages also stand in the calibration text: "
            "the measured loss may be too small. Calibrate on other text."
        )

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of the text."""
        return self._texts.sequences(self._share)

    @cached_property
    def cache(self) -> CalibrationCache:
        """What it leaves of the blocks."""
        return CalibrationCache(
            self._store,
            self.keys,
            self._model.loaded,
            lambda: self.sequences,
            self._run_log.on_step,
            token_weights=self._settings.token_weights,
            reads_text=self._reads_text,
        )

    def calibrate(self) -> None:
        """Collect the statistics, and keep them. Raises CalibrationError where there is far too little text."""
        self.reach(len(self._model.loaded.blocks) - 1)

    def reach(self, index: int) -> None:
        """As `calibrate`, as far as this block; so again and again for one block after another."""
        with self._run_log.timed("calibrate"):
            self._gathered.reach(index)

    def _begun(self) -> Gathering:
        loaded, weights = self._model.loaded, self._settings.token_weights
        self._run_log.warn(self._few_tokens_warning)
        walked = Walked(self._halfway, f"{self.keys.statistics}/hidden", self.cache.has_block)
        keep, on_step = self.cache.keep_statistics, self._run_log.on_step
        return calibrating(loaded, self.sequences, keep, on_step, token_weights=weights, walked=walked)

    def _note_calibrated(self) -> None:
        loaded = self._model.loaded
        self._store.remember(notes.calibration_warning(self.keys.statistics), self._few_tokens_warning or "")
        left = str(len(loaded.mlps)) if enough_tokens(loaded, self._n_tokens) else _DIAGONAL
        self._store.remember(notes.calibrated(self.keys.statistics), left)
        self._halfway.done()

    @property
    def _n_tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def _few_tokens_warning(self) -> str | None:
        return few_tokens_warning(self._model.loaded, self._n_tokens, solves=self._solves)

    @cached_property
    def _halfway(self) -> Halfway:
        return Halfway(self._store, self._model.identity)
