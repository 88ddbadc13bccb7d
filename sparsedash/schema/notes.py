"""The names under which the store keeps short notes, one function each.

The side that writes a note and the side that reads it call the same function; the store takes no other names. A name is
part of the data folders that there are: changed, it is a note that nobody finds again.
"""

from typing import NewType

NoteName = NewType("NoteName", str)
"""What the store keeps a note under. Made in this file only."""


def model_identity(reference: str, fingerprint: str) -> NoteName:
    """The identity that a model had when it was found here. fingerprint: of the local files that it names."""
    return NoteName(f"identity/{reference}|{fingerprint}")


def text_identity(reference: str, fingerprint: str) -> NoteName:
    """The identity that a text had when it was read here. fingerprint: as for a model."""
    return NoteName(f"corpus/{reference}|{fingerprint}")


def file_hash(path: str, n_bytes: int, modified_ns: int) -> NoteName:
    """The hash of a file of this size and time."""
    return NoteName(f"hash/{path}|{n_bytes}|{modified_ns}")


def source_type(file: str) -> NoteName:
    """The type of a quantised GGUF file, as Q4_1; empty where it is not quantised. file: its hash."""
    return NoteName(f"source type/{file}")


def model_type(identity: str) -> NoteName:
    """The family of the model with this identity, as its config.json names it."""
    return NoteName(f"family/{identity}")


def finite(files: str, dtype: str) -> NoteName:
    """That all weights in these files are numbers in this type. files: what tells them from others."""
    return NoteName(f"finite/{files}/{dtype}")


def tokenizer_tried(identity: str) -> NoteName:
    """That the tokenizer of the model with this identity reads plain text within its limits."""
    return NoteName(f"tokenizer/{identity}")


def unpacked_files(folder: str) -> NoteName:
    """The files of an unpacked model as they were written, as JSON: of each its size, time and hash."""
    return NoteName(f"unpacked/{folder}")


def peak_memory(model: str, dtype: str) -> NoteName:
    """The most bytes that a run of this model took. model: its reference."""
    return NoteName(f"memory/{model}/{dtype}")


def forecast(run: str) -> NoteName:
    """What a run was expected to take when it was asked for, as Forecast writes it. run: its key."""
    return NoteName(f"forecast/{run}")


def machine_speed(machine: str, n_cores: int) -> NoteName:
    """How fast this machine multiplies matrices."""
    return NoteName(f"speed/{machine}/{n_cores}")


def model_shape(identity: str) -> NoteName:
    """The sizes of the dense model with this identity, as ModelShape writes them."""
    return NoteName(f"shape/{identity}")


def calibrated(statistics: str) -> NoteName:
    """That the statistics of this key are in the store: of how many blocks."""
    return NoteName(f"calibrated/{statistics}")


def calibration_warning(statistics: str) -> NoteName:
    """What a person should know about the statistics of this key; empty for nothing."""
    return NoteName(f"calibration warning/{statistics}")


def leaked_passages(statistics: str, passages: str) -> NoteName:
    """Number of these passages that stand in the text of these calibration statistics. Both by their keys."""
    return NoteName(f"leaked/{statistics}|{passages}")


def inputs_gathered(inputs: str) -> NoteName:
    """That the statistics of all projections' inputs, of this key, are in the store: of how many blocks."""
    return NoteName(f"inputs/{inputs}")


def gradients_gathered(gradients: str) -> NoteName:
    """That the mask gradients of this key are in the store: of how many blocks."""
    return NoteName(f"gradients/{gradients}")


def part_calibrations(part: str) -> NoteName:
    """Under which keys the calibrations of a part of a run have left artefacts, as JSON. part: its key."""
    return NoteName(f"part calibrations/{part}")


def of_calibrations(keys: tuple[str, ...]) -> list[NoteName]:
    """Every note that says what is there of calibrations whose artefacts have these keys."""
    return [
        note(key) for key in keys for note in (calibrated, calibration_warning, inputs_gathered, gradients_gathered)
    ]


def parts_done(run: str) -> NoteName:
    """The parts of a run that machines of a cluster have made so far, as JSON. run: its key."""
    return NoteName(f"parts done/{run}")


def cluster_name() -> NoteName:
    """What tells this data folder from others that use the same cluster."""
    return NoteName("cluster name")


def losses(dense: str, sparse: str) -> NoteName:
    """What a sparse model's answers lost against the dense one's, as JSON. dense, sparse: record keys."""
    return NoteName(f"losses/{dense}|{sparse}")


def artefact_room() -> NoteName:
    """The bytes that all artefacts may take together, as somebody has chosen."""
    return NoteName("artefact room")


def health() -> NoteName:
    """A note that is never written: asking for it shows whether the store can be read."""
    return NoteName("health")
