"""Keys of what one run stores: the same for the engine, which writes, and the front, which looks."""

from collections.abc import Callable
from dataclasses import dataclass

from sparsedash.schema.settings import BUILTIN_MIXED, SELF, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import (
    CalibrationKeys,
    StopWithin,
    answers_key,
    calibration_keys,
    mix_share,
    outcomes_key,
    text_key,
)


@dataclass(frozen=True, kw_only=True)
class RunKeys:
    """Keys of a run's calibrations, records and answers.

    model: its identity. text_identity: that of a text by its reference; where it raises
    LookupError for a text that is not known, so do the keys that depend on this text.
    mix_identity: that of the built-in mix.
    """

    settings: RunSettings
    model: str
    text_identity: Callable[[str], str]
    mix_identity: str

    @property
    def generated_text(self) -> str:
        """Key of calibration text sampled from the model itself."""
        return text_key(self.model, self.settings.dtype, self.settings.calibration)

    def calibration_text(self, share: float = 0.0) -> str:
        """Identity of the calibration text, of which a share is the built-in mix.

        Of text by the model itself it is known before the text is written.
        """
        corpus = self.settings.calibration.corpus
        if corpus == SELF:
            identity = f"{SELF}:{self.generated_text}"
        elif corpus == BUILTIN_MIXED:
            identity = self.mix_identity
        else:
            identity = self.text_identity(corpus)
        return f"{identity}+{share:g} of {self.mix_identity}" if share else identity

    def calibration(self, spec: SparseSpec) -> CalibrationKeys:
        """Keys of the calibration on the text that this model reads."""
        calibration = self.settings.calibration
        text = self.calibration_text(mix_share(spec, calibration))
        return calibration_keys(self.model, self.settings.dtype, text, calibration)

    def record(self, spec: SparseSpec, stop_within: StopWithin | None = None) -> str:
        """Key of a model's record. stop_within: of a search."""
        return outcomes_key(
            self.model,
            self.settings.dtype,
            self.text_identity(self.settings.evaluation.corpus),
            self.settings.evaluation,
            spec,
            self._statistics(spec),
            n_sparse=self.settings.n_sparse,
            stop_within=stop_within,
        )

    def answers(self, spec: SparseSpec, task: str) -> str:
        """Key of a model's answers to a task, named by its identity."""
        return answers_key(
            self.model, self.settings.dtype, task, spec, self._statistics(spec)
        )

    def _statistics(self, spec: SparseSpec) -> str:
        """Key of the statistics that a model depends on; empty where it reads no text."""
        return self.calibration(spec).statistics if spec.reads_text else ""
