"""The storage page in words: what the data folder holds, what deletion removes, and what verification found.

Plain text: whoever shows it escapes it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import NamedTuple

from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, table
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Damage, Verification
from sparsedash.service.deletion import Cleanup, Staying
from sparsedash.service.holdings import ARTEFACTS, DELETABLE, Holding, HoldingKind, Holdings, RunHolding

NO_AMOUNT = "–"
_IDENTITY_LENGTH, _KEY_LENGTH = 12, 16
"""Characters of an identity that no run here has a name for, and of a key."""


class _Kind(NamedTuple):
    """Words for one kind of things. noun: of one. about: under the title. afterwards: said when some are deleted."""

    title: str
    noun: str
    about: str = ""
    afterwards: str = ""


_AGAIN = "Artefacts of calibration are computed again when a run needs them."
_KINDS: dict[HoldingKind, _Kind] = {
    "runs": _Kind(
        "Runs and their answers",
        "run",
        "with their passages",
        "With a run go the timings, comparisons, prompts and blind choices of its models.",
    ),
    "texts": _Kind(
        "Continuations, comparisons, prompts",
        "entry",
        "and blind choices",
        "Continuations and comparisons are computed again on request; prompts and blind choices are lost.",
    ),
    "timings": _Kind("Measured speed", "timing", "", "They can be measured again."),
    "statistics": _Kind(
        "Calibration statistics",
        "entry",
        "second moments, inputs, sensitivities: computed again when a run needs them",
        _AGAIN,
    ),
    "gradients": _Kind("Gradients", "entry", "of the masks: computed again when a run needs them", _AGAIN),
    "written": _Kind("Calibration text written by models", "entry", "written again when a run needs it", _AGAIN),
    "weights": _Kind(
        "Refitted weights", "entry", "of the sequential refit: computed again when a run needs them", _AGAIN
    ),
    "unfinished": _Kind("Checkpoints of interrupted jobs", "entry", "where they resume", _AGAIN),
    "models": _Kind(
        "Unpacked models",
        "model",
        "from .gguf files, the built-in model among them: unpacked again when needed",
        "Models are unpacked again, from their .gguf files, when needed.",
    ),
    "uploads": _Kind("Uploaded texts", "text", "", "Results that were computed from these texts stay."),
    "exports": _Kind(
        "Exported models",
        "export",
        "in this folder; exports to other places are not counted",
        "Their files are deleted; they can be written again as long as their runs are here.",
    ),
    "logs": _Kind("Logs", "log", "of jobs and workers", "The jobs themselves stay in the list."),
    "damaged": _Kind("Damaged records", "entry", "set aside under their names; nothing reads them"),
    "jobs": _Kind("List of jobs", "job", "what ran and when: stays, a few hundred bytes each"),
    "notes": _Kind("Names, pins and short facts", "note", "stay: everything else is found by them"),
}
_MANY = {"entry": "entries"}
_DESCRIBED: dict[HoldingKind, str] = {"models": "unpacked model", "uploads": "uploaded text"}


@dataclass(frozen=True, kw_only=True)
class HeldRow:
    """One row of a table: its title, a line under it, how many, their size, the last use."""

    title: str
    about: str
    number: str
    size: str
    used: str


@dataclass(frozen=True, kw_only=True)
class DamagedRow:
    """One damaged thing: what it is, its name, what is wrong, what to do."""

    what: str
    name: str
    fault: str
    advice: str


def holdings_sentence(held: Holdings) -> str:
    """The page's answer."""
    free = f"{wording.size(held.free_bytes)} are free on its disk"
    if held.is_empty:
        return f"The data folder holds nothing yet; {free}."
    return f"The data folder takes {wording.size(held.bytes_of(*held.kinds))}; {free}."


def holdings_cards(held: Holdings) -> list[tuple[str, str, str]]:
    """The headline numbers, each with its name before and a remark behind it."""
    results, files = held.bytes_of("runs", "texts", "timings"), held.bytes_of("models", "exports", "uploads")
    return [
        ("Results", _size_or_dash(results), _count("runs", len(held.runs))),
        ("Calibration", _size_or_dash(held.bytes_of(*ARTEFACTS)), f"of {gigabytes(held.room_bytes)} that it may take"),
        ("Models and texts in files", _size_or_dash(files), "unpacked, exported, uploaded"),
    ]


def gigabytes(n_bytes: int) -> str:
    """A size in GB of 2**30 bytes, as the limit counts them."""
    return f"{n_bytes / 2**30:,.10g}{wording.NBSP}GB"


def kind_rows(held: Holdings, zone: tzinfo | None) -> list[tuple[HoldingKind, HeldRow, bool]]:
    """The row of each kind that is there, and whether it can be deleted as a whole."""
    found = []
    for kind, words in _KINDS.items():
        if holding := held.kinds.get(kind):
            number, used = _count(kind, holding.n), _moment_or_dash(holding.used_at, zone)
            row = HeldRow(
                title=words.title, about=words.about, number=number, size=_size_or_dash(holding.n_bytes), used=used
            )
            found.append((kind, row, kind in DELETABLE))
    return found


def model_row(identity: str, model: Holding, zone: tzinfo | None) -> HeldRow:
    """One model: its runs, and the bytes of its parts."""
    known = dict.fromkeys(wording.reference_title(reference) for reference in model.names)
    shown = identity.removeprefix("sha256:")[:_IDENTITY_LENGTH]
    return HeldRow(
        title=", ".join(known) or f"A model that no run here names ({shown})",
        about=" · ".join(f"{name} {wording.size(n)}" for name, n in model.parts.items() if n),
        number=_count("runs", model.n) if model.n else "no run",
        size=_size_or_dash(model.n_bytes),
        used=_moment_or_dash(model.used_at, zone),
    )


def run_row(found: RunHolding, marks: Mapping[str, RunMark], zone: tzinfo | None) -> HeldRow:
    """One run: the bytes that it alone takes, and those that it shares."""
    mark, title = marks.get(found.run.key, RunMark()), wording.stored_run_title(found.run)
    about = [
        "★ pinned, so it stays" if mark.pinned else "",
        title if mark.name else "",
        wording.method_titles(found.run.settings),
        f"shares {wording.size(found.shared_bytes)} with other runs" if found.shared_bytes else "",
    ]
    n = len(found.run.sparse)
    return HeldRow(
        title=mark.name or title,
        about=" · ".join(filter(None, about)),
        number=f"{n} sparse {wording.plural(n, 'model')}",
        size=_size_or_dash(found.n_bytes),
        used=wording.moment(found.run.started_at, zone),
    )


def holdings_table(held: Holdings, marks: Mapping[str, RunMark], zone: tzinfo | None) -> Table:
    """All three tables as one, every run in it."""
    found = [
        *(("kind", row) for _, row, _ in kind_rows(held, zone)),
        *(("model", model_row(*model, zone)) for model in held.models.items()),
        *(("run", run_row(run, marks, zone)) for run in held.runs),
    ]
    rows = [[by, row.title, row.about, row.number, row.size, row.used] for by, row in found]
    return table("What the data folder holds", "", ["By", "What", "About", "How many", "Size", "Last use"], rows)


def deletion_question(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
    """What goes, what comes of it, and what stays and why, in sentences. titles: of the runs, by their keys."""
    if not plan.deletes:
        return ["Nothing here can be deleted now.", *_staying(plan)]
    said = [f"Delete {_parts(plan, titles)}? It cannot be undone."]
    if plan.n_named:
        said.append(f"{plan.n_named} of these runs {'has a name' if plan.n_named == 1 else 'have names'}.")
    kinds: list[HoldingKind] = ["runs"] if plan.runs else []
    kinds += [item.kind for item in plan.items]
    said += filter(None, dict.fromkeys(_KINDS[kind].afterwards for kind in kinds))
    if "runs" in kinds and "exports" not in kinds:
        said.append("Exported models stay.")
    return [*said, *_staying(plan)]


def deletion_summary(done: Cleanup, titles: Mapping[str, str]) -> str:
    """What was deleted, in one line."""
    deleted = f"Deleted: {_parts(done, titles)}." if done.deletes else "Nothing was deleted."
    return " ".join([deleted, *_staying(done)])


def verification_sentence(found: Verification, zone: tzinfo | None) -> str:
    """What verification found, and when."""
    n, when = sum(found.n_checked.values()), wording.moment(found.finished_at, zone)
    if found.n_damaged:
        were = "was" if found.n_damaged == 1 else "were"
        return f"✕ {found.n_damaged:,} of {n:,} {were} damaged (checked {when})."
    return f"✓ Everything is intact (checked {when})."


def verification_basis(found: Verification) -> str:
    """What verification read."""
    parts = [f"{n:,} {_CHECKED[kind][n != 1]}" for kind, n in found.n_checked.items() if n and kind in _CHECKED]
    took = wording.duration_words(max(0.0, found.finished_at - found.started_at))
    return f"{', '.join(parts)}: {wording.size(found.n_bytes)} in {took}." if parts else ""


def damaged_rows(found: Verification) -> list[DamagedRow]:
    """What is damaged, and what to do about it."""
    return [_damaged_row(damage) for damage in found.damaged]


_CHECKED = {
    "record": ("result or note", "results and notes"),
    "artefact": ("artefact of calibration", "artefacts of calibration"),
    "unpacked model": ("file of unpacked models", "files of unpacked models"),
    "upload": ("upload", "uploads"),
    "export": ("file of exported models", "files of exported models"),
}
_LOST = "It is lost, unless a backup of the data folder has it."
_ASK_AGAIN = "Ask for it again on the compare page."
_DAMAGED = {
    "record": ("Answers of a model", "Start its run again: only these answers are computed once more."),
    "run": ("A run", "Start it again: its stored parts are not computed twice."),
    "findresult": ("The result of a search", "Start the search again: its trials are not computed twice."),
    "passages": ("Passages", "Start a run over this text again: it brings them back."),
    "continuation": ("A continuation", _ASK_AGAIN),
    "divergence": ("A comparison token by token", _ASK_AGAIN),
    "prompts": ("A list of prompts", _LOST),
    "choices": ("Blind choices", _LOST),
    "runmarks": ("Names and pins of runs", _LOST),
    "timing": ("Measured speed", "Measure it again."),
    "export": ("The entry of an export", "Export the model again."),
    "verification": ("An earlier verification", "Nothing: a new one takes its place."),
    "note": ("A short fact", "Nothing: it is found out again when it is needed."),
    "artefact": ("An artefact of calibration", "Nothing: it is computed again when a run needs it."),
    "unpacked model": (
        "An unpacked model",
        "Delete it: the model is unpacked again, from its .gguf file, when needed.",
    ),
    "upload": ("An uploaded text", "Delete it, and upload the file again."),
    "export file": ("A file of an exported model", "Do not use it: delete the export, and export the model again."),
}
"""What damaged things are called, and what to do about them: records by their kinds, then files."""


def _damaged_row(damage: Damage) -> DamagedRow:
    kind, name = damage.kind, damage.name
    of, _, key = name.partition("/")
    match kind:
        case "record":
            name = key[:_KEY_LENGTH]
        case "artefact":
            name = name[:_KEY_LENGTH]
        case "upload":
            name = wording.reference_title(name)
    called = of if kind == "record" else "export file" if kind == "export" else kind
    what, advice = _DAMAGED.get(called, ("An entry", _DAMAGED["note"][1]))
    return DamagedRow(what=what, name=name, fault=damage.what, advice=advice)


def _count(kind: HoldingKind, n: int) -> str:
    """ "12 runs", "1 entry"."""
    noun = _KINDS[kind].noun
    return f"{n:,} {noun if n == 1 else _MANY.get(noun, noun + 's')}"


def _size_or_dash(n_bytes: int) -> str:
    return wording.size(n_bytes) if n_bytes else NO_AMOUNT


def _moment_or_dash(timestamp: float, zone: tzinfo | None) -> str:
    return wording.moment(timestamp, zone) if timestamp else NO_AMOUNT


def _parts(plan: Cleanup, titles: Mapping[str, str]) -> str:
    """ "12 runs with the answers of 30 models, 2 logs and 1 unpacked model, 20 MB"."""
    parts = []
    if plan.runs:
        runs, n = plan.runs, plan.n_records
        what = f"“{titles.get(runs[0].key, runs[0].key)}”" if len(runs) == 1 else _count("runs", len(runs))
        parts.append(f"{what} with the answers of {n} {wording.plural(n, 'model')}" if n else what)
    parts += [_of_kind(kind, n) for kind, n in Counter(item.kind for item in plan.items).items()]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    return f"{listed}, {wording.size(plan.n_bytes)}" if plan.n_bytes else listed


def _of_kind(kind: HoldingKind, n: int) -> str:
    """ "2 unpacked models", "40 entries of “Calibration statistics”"."""
    if kind in _DESCRIBED:
        return f"{n:,} {wording.plural(n, _DESCRIBED[kind])}"
    counted = _count(kind, n)
    return f"{counted} of “{_KINDS[kind].title}”" if _KINDS[kind].noun == "entry" else counted


def _staying(plan: Cleanup) -> list[str]:
    said = []
    for why, n in Counter(plan.refused.values()).items():
        said.append(f"1 run stays: {why}." if n == 1 else f"{n} runs stay, each because {why}.")
    if n := plan.n_shared:
        said.append(f"The answers of {n} {wording.plural(n, 'model')} stay: other runs use them.")
    return said + [_staying_things(each) for each in plan.stays]


def _staying_things(found: Staying) -> str:
    one = found.n == 1
    why = found.why.replace("{them}", "it" if one else "them")
    return f"{_of_kind(found.kind, found.n)} {'stays' if one else 'stay'}: {why}."
