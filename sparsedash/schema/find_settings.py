"""Settings of a search for the largest sparsity within a tolerance, and its result."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from sparsedash.schema.errors import SettingsError, StoreError
from sparsedash.schema.fields import setting
from sparsedash.schema.method_settings import FIXED_PERMILLE, MethodSettings
from sparsedash.schema.plain_values import Count, Permille
from sparsedash.schema.settings import (
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    Residency,
    RunSettings,
    request_key,
    settings_from_plain,
)
from sparsedash.schema.sparse_spec import MAX_HEAL_STEPS, Quantisation, SparseSpec
from sparsedash.schema.tolerance_settings import Tolerance

PLANNED = (450, 225, 113, 57, 28, 14)
"""Sparsities (per mille) of a search in which every trial fails, for estimates: the real ones are
known on the way.
"""


@dataclass(frozen=True, kw_only=True)
class FindSettings:
    """One search: a model, one method, one calibration, and the tolerance.

    heal_steps: of healing of every model that is tried. quantise: types that dense and the answer
    are quantised to as well, once it is found; widths as in a run. evaluation: a model answers at most its
    passages, and its tasks where these are within.
    residency, prompts,
    revisions: see RunSettings.
    """

    model: str = RunSettings.model
    dtype: Dtype = RunSettings.dtype
    method: MethodSettings = field(default_factory=MethodSettings)
    heal_steps: int = setting(
        0,
        high=MAX_HEAL_STEPS,
        key="heal-steps",
        flag="--heal-steps",
        label="Steps of healing",
        flag_help="heal for N steps instead of minutes: the dense model teaches the sparse one; 0 heals nothing",
        help="The dense model teaches the sparse one on the calibration text and more of it. 0: not healed.",
    )
    quantise: tuple[Quantisation, ...] = ()
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    tolerance: Tolerance = field(default_factory=Tolerance)
    residency: Residency = RunSettings.residency
    prompts: tuple[str, ...] = RunSettings.prompts
    revisions: tuple[tuple[str, str], ...] = RunSettings.revisions

    def __post_init__(self) -> None:
        # With the width multiple that the quantised types need.
        (method,) = self.run((100,), (100,)).methods
        object.__setattr__(self, "method", method)
        if self.method.pattern in FIXED_PERMILLE:
            raise SettingsError(
                "method",
                self.method.pattern,
                "a pattern that does not decide the sparsity itself",
            )
        if self.evaluation.stop_early:
            raise SettingsError(
                "stop early", True, "false (a search always stops at a decided verdict)"
            )

    def healed(self, n_steps: int) -> "FindSettings":
        """The search among healed models. Raises SettingsError."""
        return replace(self, heal_steps=n_steps)

    @property
    def reads_text(self) -> bool:
        """Whether its models depend on the calibration text."""
        return self.method.reads_text or self.heal_steps > 0

    def spec(self, permille: int) -> SparseSpec:
        """The model that is tried at this sparsity."""
        return SparseSpec(self.method, permille, self.heal_steps)

    def run(
        self, permilles: tuple[int, ...], quantised: tuple[int, ...] = ()
    ) -> RunSettings:
        """The run with these sparsities (per mille) as its trials. Raises SettingsError.

        quantised: sparsities of those that are quantised; none: dense is not either.
        """
        shared = (
            "model",
            "dtype",
            "calibration",
            "evaluation",
            "residency",
            "prompts",
            "revisions",
        )
        values: dict[str, Any] = {name: getattr(self, name) for name in shared}
        return RunSettings(
            methods=(self.method,),
            sparsities_permille=permilles,
            heal_steps=(self.heal_steps,),
            quantise=self.quantise if quantised else (),
            quantised_permille=quantised if self.quantise else (),
            **values,
        )

    def key(self, contents: Mapping[str, str] | None = None) -> str:
        """The name of this request, of its run and of its result. contents: as in a run."""
        return request_key("find", self, self.evaluation, contents)


def run_or_find_settings(
    kind: str, plain: Mapping[str, Any]
) -> RunSettings | FindSettings:
    """Settings of a job that makes a run, from their plain form. Raises SettingsError."""
    return (
        settings_from_plain(FindSettings, plain)
        if kind == "find"
        else settings_from_plain(RunSettings, plain)
    )


def planned_run(settings: RunSettings | FindSettings) -> RunSettings:
    """The run of a job; of a search one with its usual number of trials, for estimates."""
    if isinstance(settings, FindSettings):
        return settings.run(PLANNED, PLANNED[-1:])
    return settings


TrialVerdict = Literal["within", "beyond", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One sparsity that was tried. record: the key of its answers. n_passages: answered before the
    verdict on them.

    verdict: on the passages and the tasks.
    """

    permille: Permille
    record: str
    verdict: TrialVerdict
    n_passages: Count


@dataclass(frozen=True, kw_only=True)
class FindResult:
    """Result of a search so far, stored under the key of its run after every trial.

    n_passages: the most that a trial answers. steps: possible
    sparsities (per mille), ascending. trials: in the order they were made. answer: the largest step
    that is within while the next is not; None if not even the first is, or while the search goes
    on.
    """

    key: str
    tolerance: Tolerance
    n_passages: Count
    steps: tuple[Permille, ...]
    trials: tuple[Trial, ...]
    answer: int | None
    finished: bool

    def __post_init__(self) -> None:
        named = {trial.permille for trial in self.trials}
        if self.answer is not None:
            named.add(self.answer)
        if not self.steps or not named <= set(self.steps):
            raise StoreError("Its trials do not belong to its steps.")

    @property
    def next_step(self) -> int | None:
        """The step after the answer, or the first one without an answer; None after the last."""
        behind = [
            step for step in self.steps if self.answer is None or step > self.answer
        ]
        return behind[0] if behind else None
