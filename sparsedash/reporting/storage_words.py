"""The data folder in words: what it holds, what deletion removes, and what verification found.

Plain text: whoever shows it escapes it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import NamedTuple

from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, Value
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Verification
from sparsedash.service.deletion import Cleanup, Selection
from sparsedash.service.holdings import (
    ARTEFACTS,
    DELETABLE,
    Holding,
    HoldingKind,
    Holdings,
    RunHolding,
)
from sparsedash.storage.disk_cache import DAMAGED

NO_AMOUNT = "–"
_MOST_NAMED = 3
"""Runs that stay and are named; of more, their number is said."""
_IDENTITY_LENGTH, _KEY_LENGTH = 12, 16
"""Characters of an identity that no run here has a name for, and of a key."""


class _Kind(NamedTuple):
    """Words for one kind of things. noun: of one. about: under the title. afterwards: said when
    some are deleted.
    """

    title: str
    noun: str
    about: str = ""
    afterwards: str = ""


_AGAIN = "Calibration data is recomputed when a run needs it."
_WITH_RUNS = "Timings, comparisons, prompts and blind choices of its models are deleted too."
_LOST_TEXTS = "Continuations and comparisons can be recomputed; prompts and blind choices are lost."
_KINDS: dict[HoldingKind, _Kind] = {
    "runs": _Kind("Runs and their answers", "run", "with their passages", _WITH_RUNS),
    "healed": _Kind("Healed weights", "entry", "deleted with their runs"),
    "texts": _Kind(
        "Continuations, comparisons, prompts", "entry", "and blind choices", _LOST_TEXTS
    ),
    "timings": _Kind("Measured speed", "timing", "", "They can be measured again."),
    "statistics": _Kind(
        "Calibration statistics", "entry", "second moments, inputs, curves", _AGAIN
    ),
    "gradients": _Kind("Gradients", "entry", "of the masks", _AGAIN),
    "written": _Kind("Calibration text written by models", "entry", "", _AGAIN),
    "weights": _Kind("Refitted weights", "entry", "", _AGAIN),
    "answers": _Kind(
        "Opened answers", "file", "of other programs", "Their files can be opened again."
    ),
    "unfinished": _Kind("Checkpoints of unfinished jobs", "entry", "to resume from", _AGAIN),
    "models": _Kind(
        "Converted models",
        "converted model",
        "from or to another format or type",
        "Made again when needed.",
    ),
    "uploads": _Kind(
        "Uploaded texts", "uploaded text", "", "Results that were computed from these texts stay."
    ),
    "exports": _Kind(
        "Exported models",
        "export",
        "in this folder alone",
        "They can be written again from their runs.",
    ),
    "logs": _Kind("Logs", "log", "of jobs and workers", "The jobs themselves stay in the list."),
    "damaged": _Kind("Damaged records", "entry", "set aside, never read"),
    "jobs": _Kind("List of jobs", "job", "kept"),
    "notes": _Kind("Names, pins and short facts", "note", "kept: other entries refer to them"),
}


class HeldRow(NamedTuple):
    """One row, by kind, model or run: title, a line under it, how many, their size, the last use;
    what is deleted.

    values: the row of the downloaded table.
    """

    by: str
    title: str
    about: str
    number: str
    size: str
    used: str
    chosen: Selection | None
    values: Mapping[str, Value]


def holdings_sentence(held: Holdings) -> str:
    """The page's answer."""
    free = f"{wording.size(held.free_bytes)} are free on its disk"
    if held.is_empty:
        return f"The data folder holds nothing yet; {free}."
    return f"The data folder takes {wording.size(held.bytes_of(*held.kinds))}; {free}."


def holdings_cards(held: Holdings) -> list[tuple[str, str, str]]:
    """The headline numbers, each with its name before and a remark behind it."""
    results, files = (
        held.bytes_of("runs", "healed", "texts", "timings"),
        held.bytes_of("models", "exports", "uploads"),
    )
    return [
        ("Results", _size_or_dash(results), _count("runs", len(held.runs))),
        (
            "Calibration",
            _size_or_dash(held.bytes_of(*ARTEFACTS)),
            f"of {gigabytes(held.room_bytes)} allowed",
        ),
        ("Models and texts in files", _size_or_dash(files), "unpacked, exported, uploaded"),
    ]


def gigabytes(n_bytes: int) -> str:
    """A limit in GB, with all its digits."""
    return f"{n_bytes / 1e9:,.10g}{wording.NBSP}GB"


def held_rows(held: Holdings, marks: Mapping[str, RunMark], zone: tzinfo | None) -> list[HeldRow]:
    """A row for every kind that is there, every model and every run. What stays whatever happens is
    not deleted.
    """

    rows = list[HeldRow]()

    def add(
        by: str,
        title: str,
        about: list[str],
        number: str,
        of: Holding | RunHolding,
        chosen: Selection | None,
    ) -> None:
        used_at = of.run.started_at if isinstance(of, RunHolding) else of.used_at
        used, size = (
            wording.moment(used_at, zone) if used_at else NO_AMOUNT,
            _size_or_dash(of.n_bytes),
        )
        words = " · ".join(filter(None, about))
        counted = of.n if isinstance(of, Holding) else len(of.run.sparse)
        values: dict[str, Value] = {
            "by": by,
            "what": title,
            "about": words,
            "number": counted,
            "of": number.partition(" ")[2],
        }
        values |= {
            "bytes": of.n_bytes,
            "last_used": wording.iso_moment(used_at, zone) if used_at else None,
        }
        rows.append(HeldRow(by, title, words, number, size, used, chosen, values))

    for kind, words in _KINDS.items():
        if holding := held.kinds.get(kind):
            chosen = Selection(kind=kind) if kind in DELETABLE else None
            add("kind", words.title, [words.about], _count(kind, holding.n), holding, chosen)
    for identity, model in held.models.items():
        shown = identity.removeprefix("sha256:")[:_IDENTITY_LENGTH]
        title = ", ".join(dict.fromkeys(map(wording.reference_title, model.names)))
        title = title or f"Unnamed model ({shown})"
        parts = [f"{name} {wording.size(n)}" for name, n in model.parts.items() if n]
        number = _count("runs", model.n) if model.n else "no run"
        add("model", title, parts, number, model, Selection(model=identity))
    for found in held.runs:
        run, mark, title = (
            found.run,
            marks.get(found.run.key, RunMark()),
            wording.stored_run_title(found.run),
        )
        about = [
            "★ pinned, so it stays" if mark.pinned else "",
            title if mark.name else "",
            wording.method_titles(run.settings),
            f"shares {wording.size(found.shared_bytes)} with other runs"
            if found.shared_bytes
            else "",
        ]
        number = wording.quantity(len(run.sparse), "sparse model")
        add("run", mark.name or title, about, number, found, Selection(runs=(run.key,)))
    return rows


def holdings_table(rows: Sequence[HeldRow]) -> Table:
    """All rows as one table to download."""
    return Table("What the data folder holds", "", [], [], data=[row.values for row in rows])


def deletion_question(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
    """What goes, what comes of it, and what stays and why, in sentences. titles: of the runs, by
    their keys.
    """
    if not plan.deletes:
        return ["Nothing here can be deleted now.", *_staying(plan, titles)]
    said = [f"Delete {_parts(plan, titles)}? This cannot be undone."]
    if plan.n_named and len(plan.runs) > 1:
        said.append(
            f"{plan.n_named} of these runs {'has a name' if plan.n_named == 1 else 'have names'}."
        )
    # A run that others have too is only given up.
    kinds: list[HoldingKind] = ["runs"] if plan.runs and plan.entries else []
    kinds += [item.kind for item in plan.items]
    said += filter(None, dict.fromkeys(_KINDS[kind].afterwards for kind in kinds))
    if "runs" in kinds and "exports" not in kinds:
        said.append("Exported models stay.")
    return [*said, *_staying(plan, titles)]


def deletion_summary(done: Cleanup, titles: Mapping[str, str]) -> str:
    """What was deleted, in one line."""
    deleted = f"Deleted: {_parts(done, titles)}." if done.deletes else "Nothing was deleted."
    return " ".join([deleted, *_staying(done, titles)])


def verification_sentence(found: Verification, zone: tzinfo | None) -> str:
    """What verification found, and when."""
    n, when = sum(found.n_checked.values()), wording.moment(found.finished_at, zone)
    if found.n_damaged:
        were = "was" if found.n_damaged == 1 else "were"
        return f"✕ {found.n_damaged:,} of {n:,} {were} damaged (checked {when})."
    return f"✓ All files intact (checked {when})."


def verification_basis(found: Verification) -> str:
    """What verification read."""
    parts = [
        wording.quantity(n, _CHECKED[kind])
        for kind, n in found.n_checked.items()
        if n and kind in _CHECKED
    ]
    took = wording.duration_words(max(0.0, found.finished_at - found.started_at))
    return f"{', '.join(parts)}: {wording.size(found.n_bytes)} in {took}." if parts else ""


_CHECKED = {
    "record": "record",
    "artefact": "calibration artefact",
    "unpacked model": "unpacked file",
    "upload": "upload",
    "export": "exported file",
}
_LOST = "It is lost, unless a backup of the data folder has it."
_NOTHING = "Nothing: it is recomputed when needed."
_ASK_AGAIN = "Ask for it again on the compare page."
_DAMAGED = {
    "record": ("Answers of a model", "Start its run again: only these answers are recomputed."),
    "run": ("A run", "Start it again: stored parts are reused."),
    "findresult": ("The result of a search", "Start the search again: stored trials are reused."),
    "passages": ("Passages", "Start a run on this text again: it restores them."),
    "continuation": ("A continuation", _ASK_AGAIN),
    "divergence": ("A comparison token by token", _ASK_AGAIN),
    "prompts": ("A list of prompts", _LOST),
    "choices": ("Blind choices", _LOST),
    "ownprompts": ("A user's own prompts", _LOST),
    "questionset": ("Answers to a task", "Start its run again: only these answers are recomputed."),
    "answers": ("Opened answers", "Open the file again."),
    "healed": ("Healed weights", "Start their run again: the model is healed once more."),
    "runmarks": ("Names and pins of runs", _LOST),
    "timing": ("Measured speed", "Measure it again."),
    "export": ("The entry of an export", "Export the model again."),
    "verification": ("An earlier verification", "Nothing: the next one replaces it."),
    "note": ("A short fact", _NOTHING),
    "artefact": ("Calibration data", "Nothing: it is recomputed when a run needs it."),
    "unpacked model": ("A converted model", "Delete it: it is made again when it is needed."),
    "upload": ("An uploaded text", "Delete it, and upload the file again."),
    "export file": (
        "A file of an exported model",
        "Do not use it: delete the export, and export the model again.",
    ),
}
"""What damaged things are called, and what to do about them: records by their kinds, then files."""


def damaged_rows(found: Verification) -> list[list[str]]:
    """What is damaged: what it is, its name, the fault, and what to do about it."""
    rows = []
    for damage in found.damaged:
        kind, name = str(damage.kind), damage.name.removeprefix(DAMAGED)
        if kind == "record":
            kind, _, name = name.partition("/")
        elif kind == "artefact":
            kind = next((part for part in ("answers", "healed") if part in name.split("/")), kind)
        what, advice = _DAMAGED.get(
            "export file" if damage.kind == "export" else kind, ("An entry", _NOTHING)
        )
        name = wording.reference_title(name) if kind == "upload" else name
        name = name[:_KEY_LENGTH] if damage.kind in ("record", "artefact") else name
        rows.append([what, name, damage.what, advice])
    return rows


def _count(kind: HoldingKind, n: int) -> str:
    """ "12 runs", "1 entry"."""
    noun = _KINDS[kind].noun
    return f"{n:,} entries" if noun == "entry" and n != 1 else wording.quantity(n, noun)


def _of_kind(kind: HoldingKind, n: int) -> str:
    """ "2 unpacked models", "40 entries of “Calibration statistics”"."""
    return _count(kind, n) + (f" of “{_KINDS[kind].title}”" if _KINDS[kind].noun == "entry" else "")


def _size_or_dash(n_bytes: int) -> str:
    return wording.size(n_bytes) if n_bytes else NO_AMOUNT


def _parts(plan: Cleanup, titles: Mapping[str, str]) -> str:
    """ "12 runs with the answers of 30 models, 2 logs and 1 unpacked model, 20 MB"."""
    parts = [_of_kind(kind, n) for kind, n in Counter(item.kind for item in plan.items).items()]
    if plan.runs:
        first = plan.runs[0].key
        what = (
            f"“{titles.get(first, first)}”"
            if len(plan.runs) == 1
            else _count("runs", len(plan.runs))
        )
        answers = (
            f" with the answers of {wording.quantity(plan.n_records, 'model')}"
            if plan.n_records
            else ""
        )
        parts.insert(0, what + answers)
    return wording.and_join(parts) + (f", {wording.size(plan.n_bytes)}" if plan.n_bytes else "")


def _staying(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
    stays = []
    for why, n in Counter(plan.refused.values()).items():
        names = [
            f"“{titles[key]}”"
            for key, reason in plan.refused.items()
            if reason == why and key in titles
        ]
        stays.append(
            (
                wording.and_join(names) if len(names) == n <= _MOST_NAMED else _count("runs", n),
                n,
                why,
            )
        )
    stays += [(_of_kind(kind, n), n, why) for kind, n, why in plan.stays]
    said = [f"{what} stays: {why}." if n == 1 else f"{what} stay: {why}." for what, n, why in stays]
    said = [each.replace("{them}", "it" if " stays: " in each else "them") for each in said]
    if n := plan.n_shared:
        said.append(f"The answers of {wording.quantity(n, 'model')} stay: other runs use them.")
    return said
