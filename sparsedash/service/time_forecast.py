"""Seconds that a run's stages take: from earlier runs here, else from operations and bytes at this
machine's speed.

The speed is measured once by a small process: the front may not import torch.
"""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from math import ceil

import msgspec
import numpy as np
from numpy.typing import NDArray

from sparsedash.catalog import resources
from sparsedash.catalog.budgets import n_layers_gone
from sparsedash.catalog.builtin_tasks import BUILTIN_TASKS, BuiltinTask
from sparsedash.catalog.cost_model import Speeds, is_streamed, least_memory
from sparsedash.catalog.model_shape import WEIGHT_BYTES, ModelShape
from sparsedash.jobs.local_runner import child_environment
from sparsedash.schema import store_keys
from sparsedash.schema.errors import JobError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import Stage
from sparsedash.schema.records import RESUMED, TASKS_CACHED, Record, Run
from sparsedash.schema.settings import SELF, CalibrationSettings, RunSettings
from sparsedash.schema.sparse_spec import MAX_HEAL_STEPS
from sparsedash.schema.store_keys import shares_read
from sparsedash.service.stored_results import note_derived, recalled
from sparsedash.storage.local_machine import memory_bytes
from sparsedash.storage.store import Store

_SPEED_MODULE = "sparsedash.engine.comparison.machine_rates"
_OLD_S, _LOOK_S = 600.0, 0.2

START_S = 6.0
"""Seconds that importing the engine takes; a worker that waits already has done it."""

_USUAL_DISK = 1e9
"""Bytes a second, where the disk could not be measured."""

_A_NUMBER = 64
"""Operations in whose time a processor moves one number of four bytes to or from memory."""

_MODULES_S, _A_CHANNEL_S = 3.0, 0.0003
"""Seconds that making a model's modules takes, and choosing one channel by elimination."""

_ROUNDING = 100
"""Numbers moved for each weight of a file that is written in full, quantised and read back."""

_ANSWER_TOKENS = 3
"""Of a built-in question's answer."""

_FINISHING = 9
"""Passes over all weights for the words that go on after the first token."""

MOST_MINUTES = 24 * 60
"""Of healing."""
STEP_MULTIPLE = 8
"""Steps of healing are a multiple of it, so that two measurements of a machine seldom give two
models.
"""

_A_STEP_MOVES, _LOGITS_MOVED = 14, 12
"""Numbers moved for each weight of the MLPs by a step of the optimiser, and for each logit by its
gradient.
"""

_BY_UNITS = 2.0
"""Times as fast as products in single precision are those of healing at most, in passes of few
tokens.
"""

_Seconds = dict[Stage, float | None]
_Work = NDArray[np.float64]
"""Amounts of the units below."""


class MachineSpeed:
    """The speed of this machine as far as it is known. One measuring process at a time; nothing
    waits for it.

    busy: whether jobs run here. An old measurement then stays: another would disturb them, and be
    of a busy machine.
    """

    def __init__(self, store: Store, busy: Callable[[], bool] = lambda: False) -> None:
        self._store, self._busy = store, busy
        self._measuring: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def known(self) -> Speeds | None:
        """The measured speeds; None until they are measured, which this begins.

        An old measurement holds until the next one ends; one of another machine with the
        same data folder does not count. A measurement that fails is not repeated.
        """
        name = store_keys.machine_speed_note(platform.node(), os.cpu_count() or 1)
        noted = recalled(self._store, name, Speeds)
        if noted is not None and (0.0 <= time.time() - noted.at < _OLD_S or self._busy()):
            return noted
        with self._lock:
            if self._measuring is None:
                command = [sys.executable, "-P", "-m", _SPEED_MODULE, str(self._store.folder)]
                self._measuring = subprocess.Popen(  # noqa: S603
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=child_environment(),
                )
            elif (
                self._measuring.poll() == 0
                and self._measuring.stdout
                and not self._measuring.stdout.closed
            ):
                with suppress(msgspec.MsgspecError):
                    found = msgspec.json.decode(self._measuring.communicate()[0], type=Speeds)
                    self._measuring, noted = None, replace(found, at=time.time())
                    note_derived(self._store, name, asdict(noted))
        return noted

    def measured(self) -> Speeds | None:
        """The speeds, measured now where they are not known, which takes some seconds; None where
        that fails.
        """
        while (found := self.known()) is None and self.is_measuring():
            time.sleep(_LOOK_S)
        return found or self.known()

    def is_measuring(self) -> bool:
        """Whether the measuring process has not ended yet."""
        with self._lock:
            return self._measuring is not None and self._measuring.poll() is None

    def close(self) -> None:
        """End a measurement that is under way."""
        with self._lock:
            if self._measuring is not None:
                with self._measuring as process:
                    process.kill()


def expected_seconds(
    settings: RunSettings,
    runs: Iterable[Run],
    record: Callable[[str], Record | None],
    speeds: Speeds | None = None,
    shape: ModelShape | None = None,
) -> tuple[_Seconds, list[Stage]]:
    """Seconds of each stage, for one model, by earlier runs of it, else counted, or None; and the
    stages counted.

    text: writing it, by the model. runs: newest first. record: gives the record of a key.
    """
    before = _finished_before(settings, runs)
    whole = _in_one_attempt(before)
    loads = [run.seconds["load"] for run in before if "load" in run.seconds]
    written, calibrate = next(
        filter(None, (_calibration_seconds(settings.calibration, run) for run in whole)),
        (None,) * 2,
    )
    measured: _Seconds = {
        # The longest of the last few: where the model was in memory still, loading took no time.
        "load": max(loads[:5], default=None),
        "text": written,
        "calibrate": calibrate,
        "prune": _pruning_seconds(settings, whole),
        "evaluate": _evaluation_seconds(settings, before, record),
    }
    if settings.evaluation.tasks:
        measured["answer"] = _task_seconds(settings, whole)
    if steps := _healing_steps(settings):
        measured["heal"] = (step_s := _measured_step_s(whole)) and step_s * steps
    if settings.quantise:
        measured["quantise"] = next(filter(None, map(_quantising_seconds, whole)), None)
    counted = counted_seconds(settings, speeds, shape)
    if measured["prune"] is None and counted["prune"] is None:
        measured["prune"] = _others_pruning_seconds(settings, whole)
    unmeasured = [stage for stage, seconds in measured.items() if seconds is None]
    return measured | {stage: counted.get(stage) for stage in unmeasured}, unmeasured


def _task_seconds(settings: RunSettings, before: Sequence[Run]) -> float | None:
    """Seconds of one model's answers to the same tasks, by the newest run that had none of them."""

    def asked(run: RunSettings) -> tuple[object, ...]:
        return run.evaluation.tasks, run.evaluation.task_limit, run.evaluation.task_shots

    for run in before:
        # Without answers every task has failed.
        known = run.answers and "answer" in run.seconds and TASKS_CACHED not in run.cached
        if known and asked(run.settings) == asked(settings):
            return run.seconds["answer"] / len(run.answers)
    return None


def _quantising_seconds(run: Run) -> float | None:
    """For one model, by a run that quantised all of its models itself."""
    n = sum(bool(spec.quantise) for spec in run.settings.points)
    found = any(what.rpartition(", ")[2].lower() in run.settings.quantise for what in run.cached)
    return run.seconds["quantise"] / n if n and "quantise" in run.seconds and not found else None


def _finished_before(settings: RunSettings, runs: Iterable[Run]) -> list[Run]:
    """The finished runs of this model in these numbers."""
    wanted = (settings.model, settings.dtype)
    return [
        run for run in runs if run.finished and (run.settings.model, run.settings.dtype) == wanted
    ]


def _in_one_attempt(runs: Iterable[Run]) -> list[Run]:
    """Those whose seconds are of all their work; only the evaluation's count what was broken
    off.
    """
    return [run for run in runs if RESUMED not in run.cached]


def healing_steps(
    minutes: float,
    settings: RunSettings,
    runs: Iterable[Run],
    speeds: Speeds | None,
    shape: ModelShape | None,
) -> int:
    """Steps of healing that take about so many minutes here: a multiple of STEP_MULTIPLE, at least
    that.

    By earlier runs of this model, else counted. Raises JobError where neither is possible yet.
    """
    step_s = _measured_step_s(_in_one_attempt(_finished_before(settings, runs))) or _counted_step_s(
        speeds, shape
    )
    if step_s is None:
        unknown = "this model's sizes" if shape is None else "this machine's speed"
        raise JobError(
            f"How long healing takes is not known yet, nor {unknown}.",
            "Run the model unhealed first.",
        )
    steps = STEP_MULTIPLE * round(60 * minutes / step_s / STEP_MULTIPLE)
    return min(MAX_HEAL_STEPS, max(STEP_MULTIPLE, steps))


def _healing_steps(settings: RunSettings) -> float:
    """Of one healed model; 0 where none is."""
    steps = _steps_of_healed(settings)
    return sum(steps) / len(steps) if steps else 0.0


def _steps_of_healed(settings: RunSettings) -> list[int]:
    """Steps of each model that is healed: those of several types have the same healed weights."""
    return [spec.heal_steps for spec in settings.points if spec.heal_steps and not spec.quantise]


def _measured_step_s(before: Sequence[Run]) -> float | None:
    """Seconds of a step, by the newest run that healed all of its models itself."""
    for run in before:
        n_steps = sum(_steps_of_healed(run.settings))
        found = any(what.endswith("sparse") or what == "healed weights" for what in run.cached)
        if n_steps and "heal" in run.seconds and not found:
            return run.seconds["heal"] / n_steps
    return None


def _counted_step_s(speeds: Speeds | None, shape: ModelShape | None) -> float | None:
    """Seconds of a step, as if nothing were removed: three passes, gradients of the MLPs, and three
    of the head.

    Products are those of bfloat16 units, where there are such; checks and reading by the dense
    model take a pass more.
    """
    if speeds is None or shape is None:
        return None
    products = 4 * 2 * shape.n_block_weights + 2 * shape.n_mlp + 4 * 2 * shape.n_head
    moved = _A_STEP_MOVES * shape.n_mlp / resources.HEAL_BATCH_TOKENS + 4 * 24 * _powers(shape, 1)
    moved += _LOGITS_MOVED * shape.vocabulary
    rate = min(max(speeds.float32, speeds.bfloat16), _BY_UNITS * speeds.float32)
    return resources.HEAL_BATCH_TOKENS * (products / rate + moved * _A_NUMBER / speeds.float32)


def _evaluation_seconds(
    settings: RunSettings, before: Sequence[Run], record: Callable[[str], Record | None]
) -> float | None:
    """For one model; the passages of another text set are taken to be as long as those measured."""
    there, a_passage = resources.n_passages(settings), None
    n_asked = there if settings.evaluation.n_passages else None
    for run in before:
        if dense := record(run.dense):
            a_passage = a_passage or dense.seconds / len(dense.outcomes)
            if (
                run.settings.evaluation.n_passages is None
                and run.settings.evaluation.corpus == settings.evaluation.corpus
            ):
                n_asked = n_asked or len(dense.outcomes)
            if n_asked:
                return n_asked * a_passage
    return there * a_passage if there and a_passage else None


def _calibration_seconds(wanted: CalibrationSettings, run: Run) -> tuple[float, float] | None:
    """For writing the text, which is nothing where it is read, and for one calibration."""
    done = run.settings.calibration
    if "calibrate" not in run.seconds or (wanted.corpus == SELF != done.corpus):
        return None
    more = _n_tokens(wanted) / _n_tokens(done)
    written = run.seconds.get("text", 0.0) if wanted.corpus == SELF else 0.0
    return written * more, run.seconds["calibrate"] * more / max(1, len(shares_read(run.settings)))


def _pruning_seconds(settings: RunSettings, before: Sequence[Run]) -> float | None:
    """For one model, by runs of the same methods, whatever their budget.

    Of those that read the text again, in proportion to it, and the largest: readings in the store
    took no time.
    """
    same = [
        (of, seconds)
        for of, seconds in _pruned(before)
        if _plain_methods(of) == _plain_methods(settings)
    ]
    if _reads_again(settings):
        n_tokens = _n_tokens(settings.calibration)
        return max(
            (seconds * n_tokens / _n_tokens(of.calibration) for of, seconds in same), default=None
        )
    return next((seconds for _, seconds in same), None)


def _plain_methods(settings: RunSettings) -> set[MethodSettings]:
    """Its methods whatever their budget: they prune in the same time."""
    return {replace(method, budget="channels") for method in settings.methods}


def _others_pruning_seconds(settings: RunSettings, before: Sequence[Run]) -> float | None:
    """For one model, by runs of other methods, if neither reads the text again."""
    others = (seconds for of, seconds in _pruned(before) if not _reads_again(of))
    return None if _reads_again(settings) else next(others, None)


def _pruned(before: Sequence[Run]) -> list[tuple[RunSettings, float]]:
    """For one model of each run, with what it writes after the prompts."""
    return [
        (run.settings, (run.seconds["prune"] + run.seconds.get("continue", 0.0)) / n)
        for run in before
        if (n := _n_pruned(run)) > 0
    ]


def _reads_again(settings: RunSettings) -> bool:
    return any(method.reads_again for method in settings.methods)


def _n_tokens(calibration: CalibrationSettings) -> int:
    return calibration.n_samples * calibration.length


def _n_pruned(run: Run) -> int:
    """Sparse models that the run's seconds of pruning are of; those of a quantised one are as good
    as none.
    """
    n_pruned = sum(not spec.quantise for spec in run.settings.points)
    n_pruned -= sum(what.endswith("sparse") for what in run.cached)
    return n_pruned if "prune" in run.seconds else 0


_UNITS: list[_Work] = list(np.eye(5))
PRODUCT, SINGLE, MOVED, READ, SECOND = _UNITS
"""Units of work: a matrix operation in the run's type or in float32, a number moved in memory, a
byte from the disk, a second that no faster machine shortens much.
"""


def counted_seconds(
    settings: RunSettings, speeds: Speeds | None, shape: ModelShape | None
) -> _Seconds:
    """Seconds of each stage, for one model, by its operations and bytes; None where something is
    not known.
    """
    found: _Seconds = dict.fromkeys(("load", "text", "calibrate", "prune", "evaluate"))
    if steps := _healing_steps(settings):
        found["heal"] = (step_s := _counted_step_s(speeds, shape)) and step_s * steps
    if settings.quantise:
        found["quantise"] = None
    if shape is None or speeds is None:
        return found
    products = speeds.float32 if settings.dtype == "float32" else speeds.bfloat16
    moved, read = _A_NUMBER / speeds.float32, 1 / (speeds.disk or _USUAL_DISK)
    seconds = np.array([1 / products, 1 / speeds.float32, moved, read, 1.0])
    itemsize, n_tokens = WEIGHT_BYTES[settings.dtype], _n_tokens(settings.calibration)
    streamed = is_streamed(
        settings.residency, least_memory(shape, settings).n_bytes, memory_bytes()
    )
    walk = shape.n_block_weights * itemsize * streamed * READ
    # In one walk with the passages nothing is read for text.
    text_walk = walk * (not resources.in_one_walk(settings))
    whole = settings.reads_text and resources.collects_whole_moments(shape.widths, settings)
    token, plain = _token(shape), settings.methods
    work: dict[Stage, _Work] = {
        "load": shape.n_parameters * itemsize * READ + _MODULES_S * SECOND,
        "text": _writing(shape, settings.calibration) * (settings.calibration.corpus == SELF),
        "calibrate": (token + _powers(shape, 2) * whole * SINGLE) * n_tokens + text_walk,
        "prune": np.mean(
            [_pruning(each, shape, n_tokens, text_walk, whole=whole) for each in plain], axis=0
        )
        + np.mean([_choosing_layers(each, shape, settings, text_walk) for each in plain], axis=0),
    }
    if settings.quantise:
        work["quantise"] = _quantising(shape, token)
    if (n_asked := resources.n_passages(settings)) is not None:
        n_asked *= resources.TOKENS_A_PASSAGE
        work["evaluate"] = token * n_asked + shape.n_matmul * _FINISHING * MOVED
        work["evaluate"] += walk * _walks(shape, settings, n_asked)
    tasks = settings.evaluation.tasks
    if tasks and BUILTIN_TASKS.keys() >= set(tasks):
        work["answer"] = np.sum(
            [_answering(BUILTIN_TASKS[task], shape, settings, walk) for task in tasks], axis=0
        )
    return found | {stage: float(each @ seconds) for stage, each in work.items()}


def _token(shape: ModelShape) -> _Work:
    """All blocks reading one token: each number that a block writes is moved three times."""
    written = 8 * shape.hidden * len(shape.widths) + 3 * _powers(shape, 1)
    return 2 * shape.n_block_weights * PRODUCT + 3 * written * MOVED


def _answering(task: BuiltinTask, shape: ModelShape, settings: RunSettings, walk: _Work) -> _Work:
    """One model's answers to a task. walk: reading all blocks from the disk, for all models side by
    side.
    """
    n = task.n_asked(settings.evaluation.task_limit)
    n_walks = ceil(
        (n_models := resources.n_side_by_side(settings))
        * n
        * task.n_tokens
        / resources.TOGETHER_TOKENS
    )
    answers = 2 * shape.n_head * PRODUCT * _ANSWER_TOKENS
    return (_token(shape) * task.n_tokens + answers) * n + walk * (n_walks / n_models)


def _writing(shape: ModelShape, asked: CalibrationSettings) -> _Work:
    """Writing the text: every step reads all weights, and the keys and values of all texts so
    far.
    """
    moved = (
        shape.n_matmul / min(asked.n_samples, resources.MOST_TEXTS)
        + shape.cache_per_token * asked.length / 2
    )
    return (_token(shape) + 2 * shape.n_head * PRODUCT + moved * MOVED) * _n_tokens(asked)


def _walks(shape: ModelShape, settings: RunSettings, n_asked: int) -> float:
    """Readings of streamed weights for each of the models evaluated side by side. n_asked: tokens
    of one model.
    """
    n_models = resources.n_side_by_side(settings)
    n_tokens = n_models * n_asked
    room = resources.unfinished_bytes(shape, settings.dtype, streamed=True)
    # The words of about half of the passages go on.
    unfinished = n_tokens * shape.cache_per_token * WEIGHT_BYTES[settings.dtype] / 2
    return (
        ceil(n_tokens / resources.TOGETHER_TOKENS) + _FINISHING * ceil(unfinished / room)
    ) / n_models


def _pruning(
    method: MethodSettings, shape: ModelShape, n_tokens: int, walk: _Work, *, whole: bool
) -> _Work:
    """One sparse model, as if nothing were found for another one that serves it as well.

    n_tokens: of the calibration text. walk: reading all blocks from the disk. whole: whether there
    are second moments.
    """
    d, token, n_blocks = shape.hidden, _token(shape), len(shape.widths)
    widths, squares, cubes = (_powers(shape, power) for power in (1, 2, 3))

    # It is judged on a sample of the calibration text and on a few passages, which are read for it.
    of_passages = resources.MISMATCH_PASSAGES * resources.TOKENS_A_PASSAGE
    work = token * of_passages + walk
    if not method.takes_channels:
        weights_by_inputs = (shape.n_block_weights - d * widths) * d + d * squares
        work += 4 * weights_by_inputs * SINGLE
        if method.reads_text:
            work += (token + resources.STREAM_INPUTS * n_blocks * d**2 * SINGLE) * n_tokens + walk
        if method.in_sequence:
            # Once more, with the new weights; and what the out-projections are given is summed
            # here.
            work += (token + squares * SINGLE) * n_tokens + walk
        if method.saliency == "obs" or method.compensation != "none":
            # Within 128 columns each one changes all that follow it.
            inverses = cubes + resources.STREAM_INPUTS * n_blocks * d**3
            work += (
                2 * weights_by_inputs + inverses
            ) * SINGLE + 128 * shape.n_block_weights * MOVED
        return work
    work += (
        4 * (resources.HELD_OUT_TOKENS + of_passages) * d * widths * SINGLE + 4 * d * widths * READ
    )
    work += (2 * d * squares * whole + (cubes + 2 * d * squares) * method.refits) * SINGLE
    if method.eliminates:
        # In 256 rounds, in which what is left of the inverse is read and written; it is halved on
        # the way. Many small operations choose each channel.
        work += 2 * cubes * SINGLE + 300 * squares * MOVED + _A_CHANNEL_S * widths * SECOND
    if method.by_gradient:
        # A backward pass takes three times as long as reading; it reads the blocks twice.
        n_batches = ceil(n_tokens / resources.FISHER_BATCH_TOKENS)
        work += (token + 2 * shape.n_head * PRODUCT) * 3 * n_tokens + walk * 2 * n_batches
    if method.by_curves:
        # Each level goes through the blocks behind its own, half of all; its refit keeps some two
        # thirds.
        read = (
            token / 2 + 2 * shape.n_head * PRODUCT
        ) * resources.CURVE_TOKENS * n_blocks + walk * n_blocks / 2
        # One more tells rounding apart.
        work += (method.curve_levels + 1) * read + method.curve_levels * (
            cubes / 3 + 2 * d * squares
        ) / 2 * SINGLE
    if method.in_sequence:
        # Both models read it, and what the refit changes is added.
        work += (token * 2 + 2 * squares * SINGLE + 2 * d * widths * PRODUCT) * n_tokens + walk * 2
    return work


def _choosing_layers(
    method: MethodSettings, shape: ModelShape, settings: RunSettings, walk: _Work
) -> _Work:
    """Of one sparse model: the order, which is found once for the most layers that go. walk: as
    above.
    """
    if not method.takes_layers:
        return 0 * SECOND
    if method.saliency == "block-influence":
        return (_token(shape) * _n_tokens(settings.calibration) + walk) / len(
            settings.sparsities_permille
        )
    n_gone = max(
        n_layers_gone(shape, method, permille) for permille in settings.sparsities_permille
    )
    n_steps = n_gone * (method.saliency != "random") / len(settings.sparsities_permille)
    # Each of the others is left out once, and the text goes on behind it.
    judged = resources.LAYER_TOKENS if method.saliency == "perplexity" else resources.CURVE_TOKENS
    tried = _token(shape) / 2 * resources.LAYER_TOKENS + 2 * shape.n_head * PRODUCT * judged
    return n_steps * (tried * len(shape.widths) + walk)


def _quantising(shape: ModelShape, token: _Work) -> _Work:
    """Writing a full file, reading and rounding it, and reading back what is written; then what it
    predicts.

    token: of all blocks.
    """
    compared = 2 * shape.n_head * resources.compared_tokens(shape.vocabulary) * PRODUCT
    files = shape.n_parameters * (_ROUNDING * MOVED + 10 * READ)
    return files + token * resources.COMPARED_PASSAGES * resources.TOKENS_A_PASSAGE + compared


def _powers(shape: ModelShape, power: int) -> int:
    return sum(width**power for width in shape.widths)
