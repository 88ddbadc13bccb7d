"""The search for the largest sparsity within a tolerance: what it is asked for, and what came out of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.schema.hashing import digest
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings, method_values
from sparsedash.schema.settings import (
    BUILTIN_MODEL,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    Residency,
    RunSettings,
    calibration_values,
    evaluation_values,
    settings_from_plain,
)
from sparsedash.schema.validation import Count, Permille, allowed_points, allowed_ratio

PLANNED = (450, 225, 113, 57, 28, 14)
"""Sparsities (per mille) of a search that only ever goes down, one trial for each: which are made, and how many, is
known on the way.
"""


@dataclass(frozen=True, kw_only=True)
class FindSettings:
    """One search: a model, one method, one calibration, and what may be lost.

    evaluation: its passages are the budget, those that a model answers at most. ratio: what word perplexity may be,
    times the dense model's. points: what accuracy may fall by, in percentage points. residency: see RunSettings.
    """

    model: str = BUILTIN_MODEL
    dtype: Dtype = "float32"
    method: MethodSettings = field(default_factory=MethodSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    ratio: float = 1.10
    points: float = 2.0
    residency: Residency = "auto"

    def __post_init__(self) -> None:
        self.run((100,))
        if self.method.pattern in FIXED_PERMILLE:
            raise SettingsError("method", self.method.pattern, "a pattern that does not decide the sparsity itself")
        if self.evaluation.stop_early:
            raise SettingsError("stop early", True, "false: a search always stops where a verdict is decided")
        allowed_ratio(self.ratio)
        allowed_points(self.points)
        # 2 and 2.0 are equal settings and must have one key.
        object.__setattr__(self, "ratio", float(self.ratio))
        object.__setattr__(self, "points", float(self.points))

    @property
    def reads_text(self) -> bool:
        """Whether its method depends on the calibration text."""
        return self.method.reads_text

    def run(self, permilles: tuple[int, ...]) -> RunSettings:
        """The run that has these sparsities (per mille) as its trials. Raises SettingsError."""
        return RunSettings(
            model=self.model,
            dtype=self.dtype,
            methods=(self.method,),
            sparsities_permille=permilles,
            calibration=self.calibration,
            evaluation=self.evaluation,
            residency=self.residency,
        )

    def key(self, fingerprints: Mapping[str, str] | None = None) -> str:
        """The name of this request, of its run and of its result. fingerprints: as those of a run."""
        values: dict[str, Any] = asdict(self) | {
            "calibration": calibration_values(self.calibration),
            "evaluation": evaluation_values(self.evaluation),
            "method": method_values(self.method),
        }
        del values["residency"]
        return digest({"find": values, "stamps": dict(fingerprints or {})})


def asked_settings(kind: str, plain: Mapping[str, Any]) -> RunSettings | FindSettings:
    """What a job of a kind that makes a run was asked for, from its plain form. Raises SettingsError."""
    if kind == "find":
        return settings_from_plain(FindSettings, plain)
    return settings_from_plain(RunSettings, plain)


def planned_run(settings: RunSettings | FindSettings) -> RunSettings:
    """The run that is asked for; of a search one with as many trials as it usually takes, for estimates."""
    return settings.run(PLANNED) if isinstance(settings, FindSettings) else settings


TrialVerdict = Literal["within", "beyond", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One sparsity that was tried. record: the key of its answers. n_passages: how many it took to judge."""

    permille: Permille
    record: str
    verdict: TrialVerdict
    n_passages: Count


@dataclass(frozen=True, kw_only=True)
class FindResult:
    """How much can go, as far as it is known; kept under the key of its run and written again after every trial.

    ratio, points: what may be lost. n_passages: the budget. steps: the sparsities (per mille) that could be tried,
    ascending. trials: in the order they were made. answer: the largest step that is within, with the next one not
    within or not there; None where not even the first is, or where it is still looked for.
    """

    key: str
    ratio: float
    points: float
    n_passages: Count
    steps: tuple[Permille, ...]
    trials: tuple[Trial, ...]
    answer: int | None
    finished: bool

    def __post_init__(self) -> None:
        allowed_ratio(self.ratio)
        allowed_points(self.points)
        tried = [trial.permille for trial in self.trials]
        if not self.steps or not {*tried, *([] if self.answer is None else [self.answer])} <= set(self.steps):
            raise StoreError("Its trials do not belong to its steps.")

    @property
    def next_step(self) -> int | None:
        """The step after the answer, or the first one where there is no answer; None after the last."""
        behind = [step for step in self.steps if self.answer is None or step > self.answer]
        return behind[0] if behind else None

    def verdict_at(self, permille: int | None) -> TrialVerdict | None:
        """What was found at a step; None where it was not tried."""
        return next((trial.verdict for trial in self.trials if trial.permille == permille), None)
