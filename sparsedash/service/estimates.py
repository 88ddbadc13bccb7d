"""Estimates of a run's time: its parts in order, each with the seconds it may take.

Seconds are those of earlier runs of the model here, else the cost model's at this machine's speed.
The form and the shell show their sum, the progress bar fills part by part.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sparsedash.catalog import resources
from sparsedash.catalog.cost_model import (
    CHARACTERS_A_TOKEN,
    STAGES,
    USUAL_SPEEDS,
    Speeds,
    Workload,
    chosen_memory,
    shared_pruning_s,
)
from sparsedash.schema.errors import JobError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.progress import Stage
from sparsedash.schema.records import RESUMED, TASKS_CACHED, Run
from sparsedash.schema.settings import SELF, RunSettings
from sparsedash.schema.sparse_spec import DENSE, MAX_HEAL_STEPS, SparseSpec
from sparsedash.schema.store_keys import mix_share
from sparsedash.service.run_checks import count_passages, main_memory
from sparsedash.storage.text_files import named_text_count

START_S = 6.0
"""Seconds to import the engine, which a waiting worker has done already."""

GUESSES_S: dict[Stage, float] = {
    "start": START_S,
    "load": 6.0,
    "read": 2.0,
    "write": 10.0,
    "continue": 15.0,
    "prove": 20.0,
    "time": 60.0,
    "heal": 300.0,
}
"""Seconds of stages that nothing is known of: they move the bar and are not shown."""
USUAL_GUESS_S = 30.0
"""Of any other stage."""

MAX_MINUTES = 24 * 60
"""Of healing."""
STEP_MULTIPLE = 8
"""Steps of healing are a multiple of it, so that two measurements of a machine seldom give two
models.
"""

_N_LEARNT = 3
"""Earlier runs of which the slowest counts: in the others, more may have been in memory already."""

PART_STAGES: dict[str, tuple[Stage, ...]] = {
    "loading": ("load",),
    "calibrating": ("text", "calibrate"),
    "pruning": ("prune", "continue"),
    "healing": ("heal",),
    "quantising": ("quantise",),
    "evaluating": ("evaluate",),
    "answering tasks": ("answer",),
    "starting": ("start",),
}
"""The stages of each part of an estimate, by its name on pages."""


@dataclass(frozen=True, kw_only=True)
class Cached:
    """Stored parts of a run: its calibration, the dense answers, the answers of these points."""

    calibration: bool = False
    dense: bool = False
    points: tuple[int, ...] = ()
    n_sparse: int = 0

    @property
    def sparse(self) -> int:
        """Number of sparse models whose answers are stored."""
        return len(self.points)


NOTHING_STORED = Cached()


@dataclass(frozen=True, kw_only=True)
class RunPart:
    """A stage of one model, or of the whole run.

    point: index of the sparse model; None for the dense one and the whole run. basis: earlier runs,
    the cost model, or nothing.
    """

    stage: Stage
    point: int | None = None
    seconds: float
    basis: Literal["measured", "counted", "guessed"] = "guessed"


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Duration of a run. seconds: of the known parts. unknown: names of the others.

    counted: parts that no run has measured here, counted from the speed of this machine. parts:
    the known ones with their seconds.
    """

    seconds: float = 0.0
    unknown: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    parts: tuple[tuple[str, float], ...] = ()

    @property
    def total_s(self) -> float | None:
        """Seconds of the whole run; None where a part is unknown."""
        return None if self.unknown else self.seconds


def run_workload(
    settings: RunSettings,
    shape: ModelShape | None,
    speeds: Speeds | None,
    data_dir: Path,
) -> Workload | None:
    """The run as the cost model counts it here; None while the model's shape is unknown."""
    if shape is None:
        return None
    corpus = settings.evaluation.corpus
    n_passages = resources.n_passages(settings)
    passage_tokens: float = resources.passage_tokens(corpus)
    is_usable = bool(count_passages(corpus, data_dir))
    count = named_text_count(corpus, data_dir) if is_usable else None
    if count is not None:
        n_passages = min(n_passages or count.n_passages, count.n_passages)
        passage_tokens = count.n_characters / count.n_texts / CHARACTERS_A_TOKEN
    return Workload(
        shape=shape,
        settings=settings,
        speeds=speeds or USUAL_SPEEDS,
        streamed=chosen_memory(shape, settings, main_memory()).streamed,
        n_passages=n_passages,
        passage_tokens=passage_tokens,
    )


def run_parts(
    settings: RunSettings, workload: Workload | None, stored: Cached = NOTHING_STORED
) -> list[RunPart]:
    """The parts of a run that are not stored, in order, as the cost model counts them."""
    points = settings.points
    unstored = [point for point in range(len(points)) if point not in stored.points]
    if stored.dense and not unstored:
        return []
    is_streamed = workload.streamed if workload else settings.residency == "streamed"
    texts: list[Stage] = []
    if settings.prompts and not is_streamed:
        texts.append("continue")
    evaluation: list[Stage] = ["evaluate"]
    if settings.evaluation.tasks:
        evaluation.insert(0, "answer")
    parts = [_counted_part(workload, "load")]
    if not stored.dense:
        parts += [_counted_part(workload, stage) for stage in texts]
        if not unstored:
            parts += [_counted_part(workload, stage) for stage in evaluation]
    stored_specs = {points[point] for point in stored.points}
    shares_read: set[float] = set()
    pruned: set[SparseSpec] = set()
    for point in unstored:
        spec = points[point]
        method = spec.method
        if method and spec.reads_text and not stored.calibration:
            if settings.calibration.corpus == SELF and all(
                part.stage != "text" for part in parts
            ):
                parts.append(_counted_part(workload, "text", point))
            share = mix_share(spec, settings.calibration)
            if method.needs_statistics and share not in shares_read:
                shares_read.add(share)
                parts.append(_counted_part(workload, "calibrate", point))
        # A quantised model is pruned and healed for the one that is not quantised.
        full = spec.before_quantising
        if method and full not in pruned:
            parts.append(_pruning_part(workload, settings, point, unstored, pruned))
            pruned.add(full)
            if full.heal_steps and full not in stored_specs:
                parts.append(_counted_part(workload, "heal", point, full))
        if spec.quantise:
            parts.append(_counted_part(workload, "quantise", point, spec))
        parts += [_counted_part(workload, stage, point, spec) for stage in texts]
        if point == unstored[0] and not stored.dense:
            # The dense model is evaluated once the first sparse one has written its texts.
            parts += [_counted_part(workload, stage) for stage in evaluation]
        parts += [_counted_part(workload, stage, point, spec) for stage in evaluation]
    return parts


def _pruning_part(
    workload: Workload | None,
    settings: RunSettings,
    point: int,
    unstored: Sequence[int],
    pruned: Collection[SparseSpec],
) -> RunPart:
    """The pruning of a point's model. pruned: the models of points before it."""
    spec = settings.points[point].before_quantising
    method = spec.method
    part = _counted_part(workload, "prune", point, spec)
    if workload is None or method is None or part.basis == "guessed":
        return part
    seconds = part.seconds
    is_first = all(earlier.method != method for earlier in pruned)
    if method.prunes_experts:
        # One walk makes the models of all points for the first of them.
        walked = _walked_together(settings, unstored, spec)
        is_first = spec == walked[0]
        seconds = 0.0
        if is_first:
            seconds = sum(
                _counted_part(workload, "prune", spec=model).seconds for model in walked
            )
    if is_first:
        seconds += shared_pruning_s(workload, method)
    return replace(part, seconds=seconds)


def _walked_together(
    settings: RunSettings, unstored: Sequence[int], spec: SparseSpec
) -> list[SparseSpec]:
    """Sparse models with fewer or narrower experts that are made while the text is read for this
    one, which is one of them, in order.
    """
    walked = list[SparseSpec]()
    for point in unstored:
        model = settings.points[point].before_quantising
        if model.method is None or not model.method.prunes_experts or model in walked:
            continue
        if mix_share(model, settings.calibration) == mix_share(
            spec, settings.calibration
        ):
            walked.append(model)
    return walked


def _counted_part(
    workload: Workload | None,
    stage: Stage,
    point: int | None = None,
    spec: SparseSpec = DENSE,
) -> RunPart:
    """A part with the seconds of the cost model; a guess where it does not know them."""
    seconds = STAGES[stage].seconds(workload, spec) if workload else None
    if seconds is None:
        return RunPart(
            stage=stage, point=point, seconds=GUESSES_S.get(stage, USUAL_GUESS_S)
        )
    return RunPart(stage=stage, point=point, seconds=seconds, basis="counted")


def expected_parts(
    settings: RunSettings,
    stored: Cached,
    runs: Iterable[Run],
    describe: Callable[[RunSettings], Workload | None],
    start_s: float = START_S,
) -> list[RunPart]:
    """The parts of a run that are not stored, by earlier runs of its model, else as counted.

    runs: newest first. describe: the workload of a run of this model on this machine.
    """
    workload = describe(settings)
    parts = run_parts(settings, workload, stored)
    if not parts:
        return []
    factors = _stage_factors(settings, runs, describe)
    expected = [RunPart(stage="start", seconds=start_s, basis="measured")]
    for part in parts:
        factor = factors.get((part.stage, part.basis))
        if factor is not None:
            part = replace(part, seconds=part.seconds * factor, basis="measured")
        elif workload is not None and workload.speeds == USUAL_SPEEDS:
            part = replace(part, basis="guessed")
        expected.append(part)
    return expected


def _stage_factors(
    settings: RunSettings,
    runs: Iterable[Run],
    describe: Callable[[RunSettings], Workload | None],
) -> dict[tuple[Stage, str], float]:
    """Measured over counted seconds, by stage and basis, of the slowest of the last few runs."""
    factors = defaultdict[tuple[Stage, str], list[float]](list)
    for run in runs:
        if not _is_comparable(run, settings):
            continue
        counted_s = defaultdict[tuple[Stage, str], float](float)
        for part in run_parts(run.settings, describe(run.settings)):
            counted_s[part.stage, part.basis] += part.seconds
        for (stage, basis), seconds in counted_s.items():
            measured_s = _measured_s(run, stage)
            if (
                measured_s is None
                or not seconds
                or len(factors[stage, basis]) == _N_LEARNT
            ):
                continue
            is_alike = stage != "prune" or _pruning(run.settings) == _pruning(settings)
            if basis == "guessed":
                # What cannot be counted takes as long only for the same questions.
                is_alike = is_alike and run.settings.evaluation == settings.evaluation
            if is_alike:
                factors[stage, basis].append(measured_s / seconds)
    return {key: max(values) for key, values in factors.items() if values}


def _is_comparable(run: Run, settings: RunSettings) -> bool:
    """Whether the seconds of a run tell those of another: not of a busy machine, or of a part."""
    same_model = (run.settings.model, run.settings.dtype) == (
        settings.model,
        settings.dtype,
    )
    return same_model and run.finished and not run.busy and RESUMED not in run.cached


def _measured_s(run: Run, stage: Stage) -> float | None:
    """Seconds that all of a stage took; None where the run found a part of it in the store."""
    evaluations = [note for note in run.cached if note.startswith("evaluation")]
    found_sparse = any(note != "evaluation, dense" for note in evaluations)
    stops_early = run.find is not None or run.settings.evaluation.stop_early
    is_partial = {
        "text": "calibration" in run.cached,
        "calibrate": "calibration" in run.cached,
        "prune": found_sparse,
        "heal": found_sparse or "healed weights" in run.cached,
        "quantise": found_sparse,
        "evaluate": bool(evaluations) or stops_early,
        # Without answers every task has failed.
        "answer": not run.answers or TASKS_CACHED in run.cached or stops_early,
    }
    if stage not in run.seconds or is_partial.get(stage):
        return None
    return run.seconds[stage]


def _pruning(settings: RunSettings) -> set[MethodSettings]:
    """Settings that decide how long pruning takes: the methods, whatever their budget."""
    return {
        replace(spec.method, budget="channels")
        for spec in settings.points
        if spec.method
    }


def run_duration(parts: Sequence[RunPart]) -> Duration:
    """The duration of a run with these parts."""
    known = {}
    unknown = []
    counted = []
    for name, stages in PART_STAGES.items():
        group = [part for part in parts if part.stage in stages]
        bases = {part.basis for part in group}
        if "guessed" in bases:
            unknown.append(name)
        elif group:
            known[name] = sum(part.seconds for part in group)
        if "counted" in bases and name in known:
            counted.append(name)
    return Duration(
        seconds=sum(known.values()),
        unknown=tuple(unknown),
        counted=tuple(counted),
        parts=tuple(known.items()),
    )


def healing_steps(
    minutes: float,
    settings: RunSettings,
    runs: Iterable[Run],
    describe: Callable[[RunSettings], Workload | None],
) -> int:
    """Steps of healing that take about so many minutes here: a multiple of STEP_MULTIPLE.

    Raises JobError while neither an earlier run nor the cost model can tell.
    """
    step = SparseSpec(MethodSettings(), 1, heal_steps=1)
    workload = describe(settings)
    step_s = STAGES["heal"].seconds(workload, step) if workload else None
    if workload is None or step_s is None:
        missing = "this model's sizes"
    else:
        factor = _stage_factors(settings, runs, describe).get(("heal", "counted"))
        if factor is not None or workload.speeds != USUAL_SPEEDS:
            n_multiples = round(
                60 * minutes / (step_s * (factor or 1.0)) / STEP_MULTIPLE
            )
            return min(MAX_HEAL_STEPS, STEP_MULTIPLE * max(1, n_multiples))
        missing = "this machine's speed"
    raise JobError(
        f"How long healing takes is not known yet, nor {missing}.",
        "Run it once without healing.",
    )
