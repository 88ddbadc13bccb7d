"""Names in the store: keys of the stages' results, each made of just what affects its stage, and
names of short notes.

Sparsities are whole per mille (125 = 12.5 %), so that keys never drift with rounding. Model,
corpus: resolved identities.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import NewType

from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.plain_values import digest
from sparsedash.schema.settings import (
    BUILTIN_MIXED,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.sparse_spec import DENSE, SparseSpec, relevant_parameters
from sparsedash.schema.stage_versions import stage_key
from sparsedash.schema.tolerance_settings import Tolerance


def text_key(model: str, dtype: Dtype, calibration: CalibrationSettings) -> str:
    """Key of calibration text sampled from the model itself."""
    values = asdict(replace(_unweighted(calibration), packed=False))
    return stage_key("text", model=model, dtype=dtype, calibration=values)


def mix_share(spec: SparseSpec, calibration: CalibrationSettings) -> float:
    """Share of the calibration tokens that are the built-in mix beside another text."""
    if calibration.corpus == BUILTIN_MIXED or not spec.reads_text:
        return 0.0
    return spec.pruning.mix


def shares_read(settings: RunSettings) -> tuple[float, ...]:
    """The shares of the mix in the texts of the statistics, in the order of a run's methods, each
    once.
    """
    readers = (spec for spec in settings.points if spec.pruning.needs_statistics)
    return tuple(
        dict.fromkeys(mix_share(spec, settings.calibration) for spec in readers)
    )


def statistics_key(
    model: str, dtype: Dtype, corpus: str, calibration: CalibrationSettings
) -> str:
    """Key of the calibration statistics. Sparsity is not part of it."""
    return stage_key(
        "statistics",
        model=model,
        dtype=dtype,
        calibration=asdict(calibration) | {"corpus": corpus},
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationKeys:
    """Keys of a calibration's artefacts.

    statistics: of the inputs of the MLPs' out-projections. inputs: of the inputs of all
    projections. gradients: of the channel masks, with all tokens weighted alike.
    """

    statistics: str
    inputs: str
    gradients: str


def calibration_keys(
    model: str, dtype: Dtype, corpus: str, calibration: CalibrationSettings
) -> CalibrationKeys:
    """The keys of one calibration."""
    statistics = statistics_key(model, dtype, corpus, calibration)
    unweighted = statistics_key(model, dtype, corpus, _unweighted(calibration))
    return CalibrationKeys(
        statistics=statistics,
        inputs=stage_key("inputs", statistics=statistics),
        # A mask's gradient depends on the text, not on the weights of its tokens in the statistics.
        gradients=stage_key("gradients", statistics=unweighted),
    )


def scheduled_gradients_key(
    keys: CalibrationKeys, method: MethodSettings, permille: int
) -> str:
    """Key of the mask gradients of a model that gets sparser while it reads. keys: of its
    calibration.
    """
    # The masks of each round are neither refitted nor rounded to multiples.
    masking = relevant_parameters(
        replace(method, compensation="none", width_multiple=1)
    )
    return stage_key(
        "gradients", statistics=keys.gradients, method=masking, permille=permille
    )


def activations_key(model: str, dtype: Dtype, tokens: str, watched: str) -> str:
    """Key of the dense model's activations on a few passages. tokens: a digest of their token ids.
    watched: where.
    """
    return stage_key(
        "activations", model=model, dtype=dtype, tokens=tokens, watched=watched
    )


def pruned_key(statistics: str, spec: SparseSpec) -> str:
    """Key of a sparse model's weights, kept if making them again needs passes over the text."""
    return stage_key("pruned", statistics=statistics, spec=spec.key)


def healed_part(key: str, name: str) -> str:
    """Key of a part of a healed model's weights. key: of the sparse model. name: of a block,
    "norms" or "figures".
    """
    return f"{key}/healed/{name}"


def healed_key(name: str) -> str:
    """Key of the sparse model that an artefact with this key is a part of; empty where it is no
    healed one's.
    """
    key, part, _ = name.partition("/healed/")
    return key if part else ""


def scores_key(statistics: str, method: MethodSettings) -> str:
    """Key of the channels' scores by this method, kept if they take long."""
    return stage_key(
        "pruned",
        statistics=statistics,
        scores=relevant_parameters(replace(method, budget="channels")),
    )


def curves_key(statistics: str, method: MethodSettings) -> str:
    """Key of the measured curves of the layers, for every sparsity of all methods that prune in the
    same order.
    """
    refitted = "least-squares" if method.in_sequence else method.compensation
    shared = replace(method, compensation=refitted, budget="channels")
    return stage_key(
        "curves", statistics=statistics, method=relevant_parameters(shared)
    )


def layers_key(gradients: str, method: MethodSettings) -> str:
    """Key of the order in which layers go, for every sparsity of all methods that choose them
    alike.

    gradients: key of what the text gives without weights of its tokens, which no order reads.
    """
    return stage_key(
        "order",
        gradients=gradients,
        layers=[method.saliency, method.seed * method.uses("seed")],
    )


def _cut_text(corpus: str, evaluation: EvaluationSettings) -> str:
    """The identity of a text that is cut into passages; of a file's with the rule's version: since
    2 a full stop is no part of the gap. No other text has one.
    """
    if evaluation.corpus.startswith(("file:", "upload:")):
        return f"{corpus}, gaps 2"
    return corpus


def passages_key(corpus: str, evaluation: EvaluationSettings) -> str:
    """Key of the passages of an evaluation."""
    corpus = _cut_text(corpus, evaluation)
    return digest(["distinct", corpus, evaluation.n_passages, evaluation.shuffle_seed])


@dataclass(frozen=True, kw_only=True)
class StopWithin:
    """Tolerance at which a sparse model of a search may stop. n_trials: the most trials there can
    be.
    """

    tolerance: Tolerance
    n_trials: int


def outcomes_key(
    model: str,
    dtype: Dtype,
    corpus: str,
    evaluation: EvaluationSettings,
    spec: SparseSpec,
    statistics: str,
    *,
    n_sparse: int = 1,
    stop_within: StopWithin | None = None,
) -> str:
    """Key of a model's answers. statistics: key of those it depends on, or empty.

    n_sparse: sparse models of the run, which matters to one that stops early. stop_within: of a
    search.
    """
    values = evaluation.about_passages | {"corpus": _cut_text(corpus, evaluation)}
    # The dense model never stops early.
    if values.pop("stop_early") and spec != DENSE:
        # The rule's version: since 2 a difference is close to none among so many, as one is shown.
        values["stop_early_among"] = {"n": n_sparse, "version": 2}
    if stop_within is not None and spec != DENSE:
        # The rule's version: since 2 a trial is within early only where accuracy is judged too.
        values["stop_within"] = asdict(stop_within) | {"version": 2}
    return stage_key(
        "outcomes",
        model=model,
        dtype=dtype,
        evaluation=values,
        spec=spec.key,
        statistics=statistics,
    )


def answers_key(
    model: str, dtype: Dtype, task: str, spec: SparseSpec, statistics: str
) -> str:
    """Key of a model's answers to a task. task: identity of its questions and how they are judged.

    statistics: as above.
    """
    return stage_key(
        "answers",
        model=model,
        dtype=dtype,
        task=task,
        spec=spec.key,
        statistics=statistics,
    )


def _unweighted(calibration: CalibrationSettings) -> CalibrationSettings:
    return replace(calibration, token_weights="equal")


NoteName = NewType("NoteName", str)
"""The name of a short note. Made in this file only; writer and reader of a note use the same
function below.
"""


def _note(kind: str, about: str) -> Callable[..., NoteName]:
    """The function that names a note. about: its arguments, and what the note holds."""

    def name(*parts: object) -> NoteName:
        return NoteName("|".join([kind, *map(str, parts)]))

    name.__doc__ = about
    return name


model_identity_note = _note(
    "identity", "(reference, fingerprint of its local files) The identity of a model."
)
hub_commit_note = _note(
    "hub commit",
    "(name on the hub) The commit that it led to when last asked, and when: JSON.",
)
text_identity_note = _note(
    "corpus 2", "(reference, fingerprint of its local file) The identity of a text."
)
file_hash_note = _note("hash", "(path, stamp) The hash of a local file.")
source_type_note = _note(
    "source type",
    "(file hash) The type of a quantised GGUF file; empty for full weights.",
)
finite_note = _note(
    "finite", "(files, dtype) Mark: all weights in these files are finite in this type."
)
tokenizer_tried_note = _note(
    "tokenizer",
    "(identity) Mark: the model's tokenizer reads plain text within its limits.",
)
unpacked_files_note = _note(
    "unpacked 2", "(folder) An unpacked model as written: hash by file name, as JSON."
)
peak_memory_note = _note(
    "memory",
    "(model reference, dtype) The peak memory of a run of this model, in bytes.",
)
forecast_note = _note(
    "forecast", "(run key) The forecast of a run at its start, see Preflight."
)
machine_speed_note = _note(
    "speed", "(machine, number of cores) The measured speed of matrix products."
)
model_shape_note = _note("shape 2", "(identity) The ModelShape of a dense model.")
looked_up_note = _note(
    "looked up",
    "(digest of a config.json, version of transformers) What its look-up found: JSON.",
)
calibrated_note = _note(
    "calibrated",
    "(statistics key) Mark: the statistics are complete; the number of blocks.",
)
calibration_warning_note = _note(
    "calibration warning",
    "(statistics key) Warning about the statistics; may be empty.",
)
leaked_passages_note = _note(
    "leaked words", "(key of a text, passages key) Number of passages in that text."
)
inputs_gathered_note = _note(
    "inputs",
    "(inputs key) Mark: statistics of all inputs are complete; number of blocks.",
)
gradients_gathered_note = _note(
    "gradients", "(gradients key) Mark: gradients are complete; number of blocks."
)
part_calibrations_note = _note(
    "part calibrations",
    "(part key) The calibration keys of a part's artefacts, as JSON.",
)
parts_done_note = _note(
    "parts done", "(run key) The finished parts of a run on a cluster, as JSON."
)
cluster_name_note = _note(
    "cluster name", "The name of this data folder on a shared cluster."
)
losses_note = _note(
    "losses",
    "(dense and sparse record keys) The losses of a sparse model against dense, as JSON.",
)
task_losses_note = _note(
    "task losses",
    "(dense and sparse record keys, digest of the keys of answers) The same on the tasks of a run.",
)
artefact_room_note = _note("artefact room", "The limit of all artefacts in bytes.")
health_note = _note(
    "health", "Never written: reading it shows whether the store can be read."
)


judged_answers_note = _note(
    "judged-answers",
    "(owner); the keys of the opened answers that were judged last, baseline first.",
)


def calibration_notes(keys: tuple[str, ...]) -> list[NoteName]:
    """All notes on calibrations whose artefacts have these keys."""
    notes = []
    for key in keys:
        notes += [
            calibrated_note(key),
            calibration_warning_note(key),
            inputs_gathered_note(key),
            gradients_gathered_note(key),
        ]
    return notes
