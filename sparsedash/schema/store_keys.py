"""Names in the store: keys of the stages' results, each made of just what affects its stage, and names of short notes.

Sparsities are whole per mille (125 = 12.5 %), so that keys never drift with rounding.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, NewType

from sparsedash.schema.method_settings import MethodSettings, method_values
from sparsedash.schema.plain_values import STAGE_VERSIONS, digest, stage_key
from sparsedash.schema.settings import (
    BUILTIN_TEXT,
    SELF,
    CalibrationSettings,
    Dtype,
    EvaluationSettings,
    RunSettings,
    calibration_values,
    evaluation_values,
)


def text_key(model: str, dtype: Dtype, calibration: CalibrationSettings) -> str:
    """Key of calibration text sampled from the model itself. model: the resolved identity."""
    values = calibration_values(replace(_unweighted(calibration), packed=False))
    return stage_key("text", model=model, dtype=dtype, calibration=values)


def own_text_identity(model: str, dtype: Dtype, calibration: CalibrationSettings) -> str:
    """Identity of the text that the model itself writes, known before it is written. model: the resolved identity."""
    return f"{SELF}:{text_key(model, dtype, calibration)}"


def plain_share(method: MethodSettings, calibration: CalibrationSettings) -> float:
    """The share of the calibration tokens that this method takes from plain text; none where all of it is that text."""
    return 0.0 if calibration.corpus == BUILTIN_TEXT or not method.reads_text else method.plain_text


def shares_read(settings: RunSettings) -> tuple[float, ...]:
    """The plain shares of the texts that a run calibrates on, in the order in which its methods first ask for them."""
    readers = (method for method in settings.methods if method.reads_text)
    return tuple(dict.fromkeys(plain_share(method, settings.calibration) for method in readers))


def unread_text_identity(corpus: str) -> str:
    """Stands for the identity of a calibration text that no method of a run reads, and nobody has read before."""
    return f"unread:{corpus}"


def mixed_text_identity(text: str, plain: str, share: float) -> str:
    """Identity of calibration text of which a share is plain. text, plain: identities of the two."""
    return f"{text}+{share:g} of {plain}" if share else text


def statistics_key(model: str, dtype: Dtype, corpus: str, calibration: CalibrationSettings) -> str:
    """Key of the calibration statistics. model, corpus: resolved identities. Sparsity is not part of it."""
    values = calibration_values(calibration) | {"corpus": corpus}
    return stage_key("statistics", model=model, dtype=dtype, calibration=values)


@dataclass(frozen=True, kw_only=True)
class CalibrationKeys:
    """Keys of what a calibration leaves of the blocks: see the functions of these names."""

    statistics: str
    inputs: str
    sensitivity: str
    gradients: str


def calibration_keys(model: str, dtype: Dtype, corpus: str, calibration: CalibrationSettings) -> CalibrationKeys:
    """The keys of one calibration. model, corpus: resolved identities."""
    statistics = statistics_key(model, dtype, corpus, calibration)
    # A mask's gradient sees the text, not how much each of its tokens counts in the statistics.
    unweighted = statistics_key(model, dtype, corpus, _unweighted(calibration))
    return CalibrationKeys(
        statistics=statistics,
        inputs=inputs_key(statistics),
        sensitivity=sensitivity_key(statistics),
        gradients=gradients_key(unweighted),
    )


def gradients_key(statistics: str) -> str:
    """Key of the mask gradients over the text whose statistics, with all tokens alike, have this key."""
    return stage_key("gradients", statistics=statistics)


def scheduled_gradients_key(keys: CalibrationKeys, method: MethodSettings, permille: int) -> str:
    """Key of the mask gradients of a model that gets sparser while it reads. keys: of its calibration."""
    rests_on = keys.statistics if method.allocation == "sensitivity" else keys.gradients
    # The masks on the way are neither refitted nor rounded to multiples.
    on_the_way = _what_matters(replace(method, compensation="none", width_multiple=1))
    return stage_key("gradients", statistics=rests_on, method=on_the_way, permille=permille)


def sensitivity_key(statistics: str) -> str:
    """Key of the blocks' sensitivities, measured on the first of the text whose statistics have this key."""
    return stage_key("sensitivity", statistics=statistics)


def inputs_key(statistics: str) -> str:
    """Key of the statistics of all projections' inputs, over the text whose statistics of the MLPs have this key."""
    return stage_key("inputs", statistics=statistics)


def activations_key(model: str, dtype: Dtype, tokens: str, watched: str) -> str:
    """Key of the dense model's activations on a few passages. tokens: a digest of their token ids. watched: where."""
    return stage_key("activations", model=model, dtype=dtype, tokens=tokens, watched=watched)


def pruned_key(statistics: str, method: MethodSettings, permille: int) -> str:
    """Key of a sparse model's weights, kept where making them again would need passes over the text."""
    return stage_key("pruned", statistics=statistics, method=_what_matters(method), permille=permille)


def scores_key(statistics: str, method: MethodSettings) -> str:
    """Key of the channels' scores by this method, kept where finding them takes long."""
    return stage_key("pruned", statistics=statistics, scores=_what_matters(method))


def passages_key(corpus: str, evaluation: EvaluationSettings) -> str:
    """Key of the passages that are answered. corpus: the identity of their text."""
    return digest(["distinct", corpus, evaluation.n_passages, evaluation.shuffle_seed])


@dataclass(frozen=True, kw_only=True)
class StopWithin:
    """What lets a sparse model of a search stop. ratio, points: what may be lost. n_trials: as many may be made."""

    ratio: float
    points: float
    n_trials: int


def outcomes_key(
    model: str,
    dtype: Dtype,
    corpus: str,
    evaluation: EvaluationSettings,
    sparse: tuple[str, MethodSettings, int] | None,
    *,
    n_sparse: int = 1,
    stop_within: StopWithin | None = None,
) -> str:
    """Key of a model's answers. sparse: statistics key, method, per mille; None for the dense model.

    n_sparse: sparse models of the run. It matters to one that stops early; the dense model never does.
    stop_within: of a search.
    """
    values = evaluation_values(evaluation) | {"corpus": corpus}
    if values.pop("stop_early", False) and sparse is not None:
        values["stop_early_among"] = n_sparse
    if stop_within is not None and sparse is not None:
        values["stop_within"] = asdict(stop_within)
    pruned = None if sparse is None else [sparse[0], _what_matters(sparse[1]), sparse[2]]
    return stage_key("outcomes", model=model, dtype=dtype, evaluation=values, sparse=pruned)


def _unweighted(calibration: CalibrationSettings) -> CalibrationSettings:
    return replace(calibration, token_weights="equal")


def _what_matters(method: MethodSettings) -> dict[str, Any]:
    """The method without the parameters that its own choices leave unused, and with the version of what it rests on."""
    chosen = {name: getattr(method, name) for name in ("pattern", "saliency", "compensation", "allocation")}
    used = {name: value for name, value in method_values(method).items() if is_used(name, **chosen)}
    rests_on = {
        "sensitivity": method.allocation == "sensitivity",
        "pruned": method.compensation == "sequential",
        "solve": is_used("damping", **chosen),
        "elimination": method.saliency == "obs" and method.takes_channels,
    }
    for stage, does in rests_on.items():
        # The first keys knew no version of these.
        if does and STAGE_VERSIONS[stage] > 1:
            used[f"{stage}_version"] = STAGE_VERSIONS[stage]
    return used


def is_used(name: str, *, pattern: str, saliency: str, compensation: str, allocation: str) -> bool:
    """Whether a method of these four choices looks at its field of this name."""
    match name:
        case "width_multiple":
            return pattern == "channelx1"
        case "scope":
            return pattern != "channelx1"
        case "rounds" | "schedule":
            return saliency == "fisher"
        case "seed":
            return saliency == "random"
        case "floor" | "ceiling" | "blend":
            return allocation == "sensitivity"
        case "strength":
            return compensation == "sequential"
        case "plain_text":
            blind = saliency in ("magnitude", "random") and compensation == "none"
            return not blind or allocation == "sensitivity"
        case "damping":
            single_weights_by_obs = pattern != "channelx1" and saliency == "obs"
            return compensation in ("least-squares", "sequential") or single_weights_by_obs
        case _:
            return True


NoteName = NewType("NoteName", str)
"""What the store keeps a note under. Made in this file only."""


def model_identity_note(reference: str, fingerprint: str) -> NoteName:
    """The identity that a model had when it was found here. fingerprint: of the local files that it names."""
    return NoteName(f"identity/{reference}|{fingerprint}")


def text_identity_note(reference: str, fingerprint: str) -> NoteName:
    """The identity that a text had when it was read here. fingerprint: as for a model."""
    return NoteName(f"corpus/{reference}|{fingerprint}")


def file_hash_note(path: str, n_bytes: int, modified_ns: int) -> NoteName:
    """The hash of a file of this size and time."""
    return NoteName(f"hash/{path}|{n_bytes}|{modified_ns}")


def source_type_note(file: str) -> NoteName:
    """The type of a quantised GGUF file, as Q4_1; empty where it is not quantised. file: its hash."""
    return NoteName(f"source type/{file}")


def model_type_note(identity: str) -> NoteName:
    """The family of the model with this identity, as its config.json names it."""
    return NoteName(f"family/{identity}")


def finite_note(files: str, dtype: str) -> NoteName:
    """That all weights in these files are numbers in this type. files: what tells them from others."""
    return NoteName(f"finite/{files}/{dtype}")


def tokenizer_tried_note(identity: str) -> NoteName:
    """That the tokenizer of the model with this identity reads plain text within its limits."""
    return NoteName(f"tokenizer/{identity}")


def unpacked_files_note(folder: str) -> NoteName:
    """The files of an unpacked model as they were written, as JSON: of each its size, time and hash."""
    return NoteName(f"unpacked/{folder}")


def peak_memory_note(model: str, dtype: str) -> NoteName:
    """The most bytes that a run of this model took. model: its reference."""
    return NoteName(f"memory/{model}/{dtype}")


def forecast_note(run: str) -> NoteName:
    """What a run was expected to take when it was asked for, as Forecast writes it. run: its key."""
    return NoteName(f"forecast/{run}")


def machine_speed_note(machine: str, n_cores: int) -> NoteName:
    """How fast this machine multiplies matrices."""
    return NoteName(f"speed/{machine}/{n_cores}")


def model_shape_note(identity: str) -> NoteName:
    """The sizes of the dense model with this identity, as ModelShape writes them."""
    return NoteName(f"shape/{identity}")


def calibrated_note(statistics: str) -> NoteName:
    """That the statistics of this key are in the store: of how many blocks."""
    return NoteName(f"calibrated/{statistics}")


def calibration_warning_note(statistics: str) -> NoteName:
    """What a person should know about the statistics of this key; empty for nothing."""
    return NoteName(f"calibration warning/{statistics}")


def leaked_passages_note(statistics: str, passages: str) -> NoteName:
    """Number of these passages that stand in the text of these calibration statistics. Both by their keys."""
    return NoteName(f"leaked/{statistics}|{passages}")


def inputs_gathered_note(inputs: str) -> NoteName:
    """That the statistics of all projections' inputs, of this key, are in the store: of how many blocks."""
    return NoteName(f"inputs/{inputs}")


def gradients_gathered_note(gradients: str) -> NoteName:
    """That the mask gradients of this key are in the store: of how many blocks."""
    return NoteName(f"gradients/{gradients}")


def part_calibrations_note(part: str) -> NoteName:
    """Under which keys the calibrations of a part of a run have left artefacts, as JSON. part: its key."""
    return NoteName(f"part calibrations/{part}")


def calibration_notes(keys: tuple[str, ...]) -> list[NoteName]:
    """Every note that says what is there of calibrations whose artefacts have these keys."""
    return [
        note(key)
        for key in keys
        for note in (calibrated_note, calibration_warning_note, inputs_gathered_note, gradients_gathered_note)
    ]


def parts_done_note(run: str) -> NoteName:
    """The parts of a run that machines of a cluster have made so far, as JSON. run: its key."""
    return NoteName(f"parts done/{run}")


def cluster_name_note() -> NoteName:
    """What tells this data folder from others that use the same cluster."""
    return NoteName("cluster name")


def losses_note(dense: str, sparse: str) -> NoteName:
    """What a sparse model's answers lost against the dense one's, as JSON. dense, sparse: record keys."""
    return NoteName(f"losses/{dense}|{sparse}")


def artefact_room_note() -> NoteName:
    """The bytes that all artefacts may take together, as somebody has chosen."""
    return NoteName("artefact room")


def health_note() -> NoteName:
    """A note that is never written: asking for it shows whether the store can be read."""
    return NoteName("health")
