"""What verification has found, in words: how much is sound, what is damaged, and what to do about it. Plain text."""

from dataclasses import dataclass
from datetime import tzinfo

from sparsedash.reporting import wording
from sparsedash.reporting.storage.held import NOTHING
from sparsedash.schema.hosting.upkeep import Damage, Verification

_CHECKED = {
    "record": ("result or note", "results and notes"),
    "artefact": ("artefact of calibration", "artefacts of calibration"),
    "unpacked model": ("file of unpacked models", "files of unpacked models"),
    "upload": ("upload", "uploads"),
    "export": ("file of models taken away", "files of models taken away"),
}
_NAMES = {
    "record": "Answers of a model",
    "run": "A run",
    "findresult": "The result of a search",
    "passages": "Passages",
    "continuation": "What models wrote",
    "divergence": "A comparison token by token",
    "prompts": "A list of prompts",
    "choices": "Blind choices",
    "runmarks": "Names and pins of runs",
    "timing": "Measured speed",
    "export": "The entry of an export",
    "verification": "An earlier verification",
    "note": "A short fact",
}
_ADVICE = {
    "record": "Start its run again: only these answers are computed once more.",
    "run": "Start it again: what else of it is there is not computed twice.",
    "findresult": "Start the search again: its trials are not computed twice.",
    "passages": "Start a run over this text again: it brings them back.",
    "continuation": "Ask for it again on the compare page.",
    "divergence": "Ask for it again on the compare page.",
    "prompts": "It is lost, unless a backup of the data folder has it.",
    "choices": "They are lost, unless a backup of the data folder has them.",
    "runmarks": "They are lost, unless a backup of the data folder has them.",
    "timing": "Measure it again.",
    "export": "Take the model away again.",
    "verification": "Nothing: a new one takes its place.",
    "note": "Nothing: it is found out again when it is needed.",
    "artefact": "Nothing: it is computed again when a run needs it.",
    "unpacked model": "Delete it: the model is unpacked again, from its .gguf file, when it is needed.",
    "upload": "Delete it, and upload the file again.",
    "export file": "Use it no more: delete the export, and take the model away again.",
}
_NAMELESS = "Nothing finds them any more; they take room until the data folder is made anew."
_SHORT = 16


@dataclass(frozen=True, kw_only=True)
class DamagedRow:
    """One thing that is damaged: what it is, what it is called, what is wrong with it, what to do."""

    what: str
    name: str
    fault: str
    advice: str


def sentence(found: Verification, zone: tzinfo | None) -> str:
    """What was found, and when."""
    n = sum(found.n_checked.values())
    when = wording.moment(found.finished_at, zone)
    if found.n_damaged:
        were = "was" if found.n_damaged == 1 else "were"
        return f"✕ {found.n_damaged:,} of {n:,} {were} damaged when everything was read, {when}."
    return f"✓ Everything is as it was written; it was read {when}."


def basis(found: Verification) -> str:
    """What was read."""
    parts = [f"{n:,} {_CHECKED[kind][n != 1]}" for kind, n in found.n_checked.items() if n and kind in _CHECKED]
    return f"{', '.join(parts)}: {wording.size(found.n_bytes)} in {wording.duration(_took(found))}." if parts else ""


def rows(found: Verification) -> list[DamagedRow]:
    """What is damaged."""
    return [_row(damage) for damage in found.damaged]


def _row(damage: Damage) -> DamagedRow:
    kind, _, key = damage.name.partition("/")
    if not damage.name:
        return DamagedRow(what="Entries", name=NOTHING, fault=damage.what, advice=_NAMELESS)
    match damage.kind:
        case "record":
            what, advice = _NAMES.get(kind, "An entry"), _ADVICE.get(kind, _ADVICE["note"])
            return DamagedRow(what=what, name=key[:_SHORT], fault=damage.what, advice=advice)
        case "artefact":
            what, name = "What calibration left", damage.name[:_SHORT]
            return DamagedRow(what=what, name=name, fault=damage.what, advice=_ADVICE["artefact"])
        case "unpacked model":
            what = "An unpacked model"
            return DamagedRow(what=what, name=damage.name, fault=damage.what, advice=_ADVICE["unpacked model"])
        case "upload":
            name = wording.title(damage.name)
            return DamagedRow(what="An uploaded text", name=name, fault=damage.what, advice=_ADVICE["upload"])
        case "export":
            what = "A file of a model taken away"
            return DamagedRow(what=what, name=damage.name, fault=damage.what, advice=_ADVICE["export file"])


def _took(found: Verification) -> float:
    return max(0.0, found.finished_at - found.started_at)
