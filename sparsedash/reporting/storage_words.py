"""The data folder in words: what it holds, what deletion removes, and what verification found.

Plain text: whoever shows it escapes it.
"""

from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import NamedTuple

from sparsedash.reporting import wording
from sparsedash.reporting.html import Table
from sparsedash.schema.records import Damage, Verification
from sparsedash.schema.user_records import RunMark
from sparsedash.service.deletion import RunDeletion
from sparsedash.service.holdings import (
    CacheContents,
    CachePart,
    FileKind,
    Holdings,
    StoredFile,
)
from sparsedash.storage.disk_cache import DAMAGED

_NO_AMOUNT = "–"
_KEY_LENGTH = 16
"""Characters of a key that are shown."""

_CACHE: dict[CachePart, tuple[str, str]] = {
    "calibration": (
        "Calibration data (statistics, gradients, text, refitted weights)",
        "recomputed when a run needs it",
    ),
    "answers": (
        "Opened answers of other programs",
        "lost until you open their files again",
    ),
    "unfinished": (
        "Checkpoints of unfinished jobs",
        "lost; those jobs start from the beginning",
    ),
    "timings": ("Measured speed", "lost until measured again"),
    "exports": ("Remains of unfinished exports", "of no use"),
    "damaged": ("Damaged entries", "of no use"),
}
"""Titles of the parts of the cache, and what becomes of each."""
_FILES: dict[FileKind, tuple[str, str]] = {
    "exports": ("exported model", "It can be exported again from its run."),
    "uploads": ("uploaded text", "Results computed from it stay."),
    "models": ("converted model", "It is converted again when a run needs it."),
}
"""Nouns of files, and what is said before one is deleted."""


class HeldRow(NamedTuple):
    """One run or file of a list: title, a line under it, and three cells."""

    title: str
    about: str
    cells: tuple[str, str, str]


def holdings_sentence(holdings: Holdings) -> str:
    """The page's answer."""
    free = f"{wording.size(holdings.free_bytes)} are free on its disk"
    if holdings.is_empty:
        return f"The data folder holds nothing yet; {free}."
    return f"The data folder takes {wording.size(holdings.n_bytes)}; {free}."


def gigabytes(n_bytes: int) -> str:
    """A limit in GB, with all its digits."""
    return f"{n_bytes / 1e9:,.10g}{wording.NBSP}GB"


RUN_HEADS = ("Contents", "Size", "Started")


def run_rows(
    holdings: Holdings, marks: Mapping[str, RunMark], zone: tzinfo | None
) -> dict[str, HeldRow]:
    """A row for every run, by its key."""
    rows = {}
    for run, n_bytes in holdings.runs:
        mark = marks.get(run.key, RunMark())
        title = wording.stored_run_title(run)
        remarks = [wording.method_titles(run.settings)]
        if mark.name:
            remarks.insert(0, title)
        if mark.pinned:
            remarks.insert(0, "★ pinned, so it stays")
        started = wording.moment(run.started_at, zone)
        models = wording.quantity(len(run.sparse), "sparse model")
        cells = (models, _size_or_dash(n_bytes), started)
        rows[run.key] = HeldRow(
            mark.name or title,
            " · ".join(remarks),
            cells,
        )
    return rows


FILE_HEADS = ("Kind", "Size", "Written")


def file_row(file: StoredFile, zone: tzinfo | None) -> HeldRow:
    """The row of a file."""
    noun, _ = _FILES[file.kind]
    written = wording.moment(file.written_at, zone) if file.written_at else _NO_AMOUNT
    cells = (noun, _size_or_dash(file.n_bytes), written)
    return HeldRow(
        wording.reference_title(file.title),
        "",
        cells,
    )


def file_question(file: StoredFile) -> str:
    """Question before a file is deleted."""
    noun, consequence = _FILES[file.kind]
    return f"Delete this {noun}, {wording.size(file.n_bytes)}? {consequence}"


def cache_table(cache: CacheContents) -> Table:
    """The parts of the cache with their sizes, and what becomes of each when it is emptied."""
    rows = []
    for part, (title, consequence) in _CACHE.items():
        items = [item for item in (*cache.items, *cache.spared) if item.part == part]
        if items:
            size = wording.size(sum(item.n_bytes for item in items))
            rows.append(
                [
                    title,
                    f"{len(items):,}",
                    size,
                    consequence,
                ]
            )
    return Table(
        "The cache",
        "",
        ["Part", "Entries", "Size", "When emptied"],
        rows,
    )


def cache_question(cache: CacheContents) -> list[str]:
    """Question before the cache is emptied, in sentences."""
    spared = []
    if cache.spared:
        n_bytes = sum(item.n_bytes for item in cache.spared)
        spared = [
            f"{wording.size(n_bytes)} stay: a waiting or running job may need them."
        ]
    if not cache.items:
        return ["Nothing here can be deleted now.", *spared]
    titles: dict[str, list[str]] = {}
    parts = {item.part for item in cache.items}
    for part, (title, consequence) in _CACHE.items():
        if part in parts:
            titles.setdefault(consequence, []).append(title)
    consequences = [
        f"{wording.first_upper(consequence)}: {', '.join(names)}."
        for consequence, names in titles.items()
    ]
    return [
        f"Delete {wording.size(cache.n_bytes)}?",
        *consequences,
        *spared,
    ]


def cache_summary(cache: CacheContents) -> str:
    """Report of an emptied cache."""
    return f"Deleted from the cache: {wording.size(cache.n_bytes)}."


def deletion_question(plan: RunDeletion, titles: Mapping[str, str]) -> list[str]:
    """What goes with runs, what comes of it, and what stays and why, in sentences.

    titles: of the runs, by their keys.
    """
    if not plan.runs:
        return ["Nothing here can be deleted now.", *_staying(plan, titles)]
    sentences = [f"Delete {_parts(plan, titles)}? This cannot be undone."]
    # A run that others have too is only given up.
    if plan.entries:
        sentences += [
            "Timings, comparisons, prompts, blind choices and logs of its models are deleted too.",
            "Start the run again to recompute it. Exported models stay.",
        ]
    return [*sentences, *_staying(plan, titles)]


def deletion_summary(deletion: RunDeletion, titles: Mapping[str, str]) -> str:
    """Report of a deletion, in one line."""
    deleted = "Nothing was deleted."
    if deletion.runs:
        deleted = f"Deleted: {_parts(deletion, titles)}."
    return " ".join([deleted, *_staying(deletion, titles)])


def _parts(plan: RunDeletion, titles: Mapping[str, str]) -> str:
    """ "12 runs with the answers of 30 models, 20 MB"."""
    runs = _runs([run.key for run in plan.runs], titles)
    if plan.n_records:
        runs += f" with the answers of {wording.quantity(plan.n_records, 'model')}"
    return f"{runs}, {wording.size(plan.n_bytes)}" if plan.n_bytes else runs


def _staying(plan: RunDeletion, titles: Mapping[str, str]) -> list[str]:
    keys_by_reason: dict[str, list[str]] = {}
    for key, reason in plan.refused.items():
        keys_by_reason.setdefault(reason, []).append(key)
    sentences = []
    for reason, keys in keys_by_reason.items():
        stay = "stays" if len(keys) == 1 else "stay"
        sentences.append(f"{_runs(keys, titles)} {stay}: {reason}.")
    return sentences


def _runs(keys: Sequence[str], titles: Mapping[str, str]) -> str:
    """A run by its title; of several, their number."""
    if len(keys) == 1 and keys[0] in titles:
        return f"“{titles[keys[0]]}”"
    return wording.quantity(len(keys), "run")


def verification_sentence(verification: Verification, zone: tzinfo | None) -> str:
    """Result and time of a verification."""
    n = sum(verification.n_checked.values())
    when = wording.moment(verification.finished_at, zone)
    if verification.n_damaged:
        were = "was" if verification.n_damaged == 1 else "were"
        return f"✕ {verification.n_damaged:,} of {n:,} {were} damaged (checked {when})."
    return f"✓ All files intact (checked {when})."


def verification_basis(verification: Verification) -> str:
    """Bytes read by a verification, and its duration."""
    seconds = max(0.0, verification.finished_at - verification.started_at)
    took = wording.duration_words(seconds)
    return f"{wording.size(verification.n_bytes)} read in {took}."


_LOST = "It is lost, unless a backup of the data folder has it."
_RERUN = "Empty the cache and start its run again: only what is damaged is recomputed."
_AGAIN = "Empty the cache and ask for it again."
_DAMAGED = {
    "record": ("Answers of a model", _RERUN),
    "run": ("A run", _RERUN),
    "findresult": ("The result of a search", _RERUN),
    "passages": ("Passages", _RERUN),
    "questionset": ("Answers to a task", _RERUN),
    "healed": ("Healed weights", _RERUN),
    "continuation": ("A continuation", _AGAIN),
    "divergence": ("A comparison token by token", _AGAIN),
    "timing": ("Measured speed", _AGAIN),
    "answers": ("Opened answers", _AGAIN),
    "prompts": ("A list of prompts", _LOST),
    "choices": ("Blind choices", _LOST),
    "ownprompts": ("A user's own prompts", _LOST),
    "runmarks": ("Names and pins of runs", _LOST),
    "export": ("The entry of an export", "Export the model again."),
    "artefact": (
        "Calibration data",
        "Empty the cache; it is recomputed when a run needs it.",
    ),
    "unpacked model": (
        "A converted model",
        "Delete it: it is converted again when needed.",
    ),
    "upload": ("An uploaded text", "Delete it, and upload the file again."),
    "export file": (
        "A file of an exported model",
        "Do not use it: delete the export, and export the model again.",
    ),
}
"""What damaged things are called, and what to do about them: records by their kinds, then files."""


def damage_table(verification: Verification) -> Table:
    """What is damaged: what it is, its name, the fault, and what to do about it."""
    rows = [_damaged_row(damage) for damage in verification.damaged]
    return Table(
        "What is damaged",
        "",
        ["Kind", "Name", "Fault", "Remedy"],
        rows,
    )


def _damaged_row(damage: Damage) -> list[str]:
    name = damage.name.removeprefix(DAMAGED)
    kind: str = damage.kind
    if damage.kind == "record":
        kind, _, name = name.partition("/")
    elif damage.kind == "export":
        kind = "export file"
    elif damage.kind == "upload":
        name = wording.reference_title(name)
    elif damage.kind == "artefact":
        parts = name.split("/")
        kind = next(
            (part for part in ("answers", "healed") if part in parts),
            "artefact",
        )
    if damage.kind in ("record", "artefact"):
        name = name[:_KEY_LENGTH]
    title, remedy = _DAMAGED.get(kind, ("An entry", "Empty the cache."))
    return [
        title,
        name,
        damage.what,
        remedy,
    ]


def _size_or_dash(n_bytes: int) -> str:
    return wording.size(n_bytes) if n_bytes else _NO_AMOUNT
