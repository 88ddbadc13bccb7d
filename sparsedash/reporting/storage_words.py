"""The storage page in words: what the data folder holds, what deletion removes, and what verification found.

Plain text: whoever shows it escapes it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo

from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, table
from sparsedash.reporting.run_list import OTHER_VERSION_KEEPS_ALL
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Damage, Verification
from sparsedash.service.deletion import DELETABLE, ArtefactRoom, Cleanup, Staying
from sparsedash.service.holdings import ARTEFACTS, Holding, HoldingKind, Holdings, ModelHolding, RunHolding

NO_AMOUNT = "–"
_IDENTITY_LENGTH = 12
"""Characters of an identity, where nobody here has a name for it."""

KIND_TITLES: dict[HoldingKind, str] = {
    "runs": "Runs and their answers",
    "texts": "Continuations, comparisons, prompts",
    "timings": "Measured speed",
    "statistics": "Calibration statistics",
    "gradients": "Gradients",
    "written": "Text that models wrote",
    "weights": "Refitted weights",
    "unfinished": "Work of jobs that were broken off",
    "unlabelled": "Calibration of earlier versions",
    "models": "Unpacked models",
    "uploads": "Uploaded texts",
    "exports": "Models taken away",
    "logs": "Logs",
    "damaged": "Damaged records",
    "jobs": "List of jobs",
    "notes": "Names, pins and short facts",
}
_NOUNS: dict[HoldingKind, tuple[str, str]] = {
    "runs": ("run", "runs"),
    "timings": ("timing", "timings"),
    "models": ("model", "models"),
    "uploads": ("text", "texts"),
    "exports": ("export", "exports"),
    "logs": ("log", "logs"),
    "jobs": ("job", "jobs"),
    "notes": ("note", "notes"),
}
_ABOUT: dict[HoldingKind, str] = {
    "runs": "with the passages that they answered",
    "texts": "and blind choices",
    "statistics": "second moments, inputs, sensitivities: computed again when a run needs them",
    "gradients": "of the masks: computed again when a run needs them",
    "written": "for calibration: written again when a run needs it",
    "weights": "by the sequential refit: computed again when a run needs them",
    "unfinished": "where they go on when they are started again",
    "unlabelled": "which did not note what it was: computed again when a run needs it",
    "models": "from .gguf files, the built-in model among them: unpacked again when they are needed",
    "exports": "in this folder; what was put elsewhere is not counted",
    "logs": "of jobs and workers",
    "damaged": "set aside under their names; nothing reads them",
    "jobs": "what ran and when: stays, a few hundred bytes each",
    "notes": "stay: everything else is found by them",
}


@dataclass(frozen=True, kw_only=True)
class HeldRow:
    """One row of a table: title, what is said under it, how many, how much, when it was last used."""

    title: str
    about: str
    number: str
    size: str
    used: str


def count_of_kind(kind: HoldingKind, n: int) -> str:
    """ "12 runs", "1 entry"."""
    one, many = _NOUNS.get(kind, ("entry", "entries"))
    return f"{n:,} {one if n == 1 else many}"


def size_or_dash(n_bytes: int) -> str:
    """A size; nothing where there is none."""
    return wording.size(n_bytes) if n_bytes else NO_AMOUNT


def holdings_sentence(held: Holdings) -> str:
    """The page's answer."""
    free = f"{wording.size(held.free_bytes)} are free on its disk"
    if held.is_empty:
        return f"The data folder holds nothing yet; {free}."
    return f"The data folder takes {wording.size(held.n_bytes)}; {free}."


def holdings_cards(held: Holdings, room: ArtefactRoom) -> list[tuple[str, str, str]]:
    """The numbers that matter, each with a name before and a remark behind it."""
    results = sum(held.kinds[kind].n_bytes for kind in ("runs", "texts", "timings") if kind in held.kinds)
    files = sum(held.kinds[kind].n_bytes for kind in ("models", "exports", "uploads") if kind in held.kinds)
    return [
        ("Results", size_or_dash(results), count_of_kind("runs", len(held.runs))),
        ("Calibration", size_or_dash(held.artefact_bytes), f"of {gigabytes(room.n_bytes)} that it may take"),
        ("Models and texts in files", size_or_dash(files), "unpacked, taken away, uploaded"),
    ]


def gigabytes(n_bytes: int) -> str:
    """As the limit counts them, by 2**30."""
    return f"{n_bytes / 2**30:,.10g}{wording.NBSP}GB"


def kind_rows(held: Holdings, zone: tzinfo | None) -> list[tuple[HoldingKind, HeldRow, bool]]:
    """Of each kind that there is something of the row, and whether it can be deleted as a whole."""
    return [
        (kind, _kind_row(kind, held.kinds[kind], zone), kind in DELETABLE) for kind in KIND_TITLES if kind in held.kinds
    ]


def model_row(model: ModelHolding, zone: tzinfo | None) -> HeldRow:
    """One model: how many runs it has, and what of it takes how much."""
    parts = {
        "answers": model.answers,
        "calibration": model.calibration,
        "unpacked": model.unpacked,
        "taken away": model.exports,
    }
    return HeldRow(
        title=model_title(model),
        about=" · ".join(f"{name} {wording.size(n)}" for name, n in parts.items() if n),
        number=count_of_kind("runs", model.n_runs) if model.n_runs else "no run",
        size=size_or_dash(model.n_bytes),
        used=wording.moment(model.used_at, zone) if model.used_at else NO_AMOUNT,
    )


def model_title(model: ModelHolding) -> str:
    """By what names it is known here; else the beginning of its identity."""
    known = dict.fromkeys(wording.reference_title(reference) for reference in model.references)
    return (
        ", ".join(known)
        or f"A model that no run here names ({model.identity.removeprefix('sha256:')[:_IDENTITY_LENGTH]})"
    )


def run_row(found: RunHolding, marks: Mapping[str, RunMark], zone: tzinfo | None) -> HeldRow:
    """One run: what only it takes, and what it shares."""
    mark = marks.get(found.run.key, RunMark())
    shared = f"shares {wording.size(found.shared_bytes)} with other runs" if found.shared_bytes else ""
    pinned = "★ pinned, so it stays" if mark.pinned else ""
    about = [
        pinned,
        wording.stored_run_title(found.run) if mark.name else "",
        wording.method_titles(found.run.settings),
        shared,
    ]
    n = len(found.run.sparse)
    return HeldRow(
        title=mark.name or wording.stored_run_title(found.run),
        about=" · ".join(filter(None, about)),
        number=f"{n} sparse {wording.plural(n, 'model')}",
        size=size_or_dash(found.n_bytes),
        used=wording.moment(found.run.started_at, zone),
    )


def holdings_table(held: Holdings, marks: Mapping[str, RunMark], zone: tzinfo | None) -> Table:
    """All three tables as one, every run in it."""
    found = [
        *(("kind", row) for _, row, _ in kind_rows(held, zone)),
        *(("model", model_row(model, zone)) for model in held.models),
        *(("run", run_row(run, marks, zone)) for run in held.runs),
    ]
    rows = [[by, row.title, row.about, row.number, row.size, row.used] for by, row in found]
    return table("What the data folder holds", "", ["By", "What", "About", "How many", "Size", "Last use"], rows)


def _kind_row(kind: HoldingKind, holding: Holding, zone: tzinfo | None) -> HeldRow:
    return HeldRow(
        title=KIND_TITLES[kind],
        about=_ABOUT.get(kind, ""),
        number=count_of_kind(kind, holding.n),
        size=size_or_dash(holding.n_bytes),
        used=wording.moment(holding.used_at, zone) if holding.used_at else NO_AMOUNT,
    )


_AFTERWARDS: dict[HoldingKind, str] = {
    "runs": "With a run go the timings, comparisons, prompts and blind choices of its models.",
    "texts": "What models wrote is written again when it is asked for; prompts and blind choices are gone.",
    "timings": "They can be measured again.",
    "models": "Models are unpacked again, from their .gguf files, when they are needed.",
    "uploads": "Results that were computed from these texts stay.",
    "exports": "Their files go; they can be written again as long as their runs are here.",
    "logs": "The jobs themselves stay in the list.",
    **dict.fromkeys(ARTEFACTS, "What calibration left is computed again when a run needs it."),
}


def deletion_question(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
    """What will go, what comes of it, and what stays and why, in sentences. titles: of the runs, by their keys."""
    if not plan.deletes:
        return ["Nothing of this can go now.", *_stays(plan)]
    size = f", {wording.size(plan.n_bytes)}" if plan.n_bytes else ""
    said = [f"Delete {_listed(_parts(plan, titles))}{size}? It cannot be undone."]
    if plan.n_named:
        said.append(f"{plan.n_named} of these runs {'has a name' if plan.n_named == 1 else 'have names'}.")
    kinds = (*(("runs",) if plan.removal and plan.removal.runs else ()), *(item.kind for item in plan.items))
    said += dict.fromkeys(_AFTERWARDS[kind] for kind in kinds if kind in _AFTERWARDS)
    if "runs" in kinds and "exports" not in kinds:
        said.append("Models that were taken away stay.")
    return [*said, *_stays(plan)]


def deletion_summary(done: Cleanup, titles: Mapping[str, str]) -> str:
    """What was deleted, in one line."""
    if not done.deletes:
        return " ".join(["Nothing was deleted.", *_stays(done)])
    size = f", {wording.size(done.n_bytes)}" if done.n_bytes else ""
    return " ".join([f"Deleted: {_listed(_parts(done, titles))}{size}.", *_stays(done)])


def _parts(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
    parts = []
    if plan.removal is not None and plan.removal.runs:
        runs, n = plan.removal.runs, len(plan.removal.records)
        what = f"“{titles.get(runs[0].key, runs[0].key)}”" if len(runs) == 1 else count_of_kind("runs", len(runs))
        parts.append(f"{what} with the answers of {n} {wording.plural(n, 'model')}" if n else what)
    kinds = Counter(item.kind for item in plan.items)
    return parts + [_items_of_kind(kind, n) for kind, n in kinds.items()]


def _items_of_kind(kind: HoldingKind, n: int) -> str:
    """ "2 unpacked models", "40 entries of calibration statistics"."""
    match kind:
        case "models":
            return f"{n:,} unpacked {wording.plural(n, 'model')}"
        case "uploads":
            return f"{n:,} uploaded {wording.plural(n, 'text')}"
        case "timings" | "exports" | "logs":
            return count_of_kind(kind, n)
        case _:
            return f"{count_of_kind('statistics', n)} of “{KIND_TITLES[kind]}”"


def _stays(plan: Cleanup) -> list[str]:
    said = []
    if plan.removal is not None:
        said += [_refused(why, n) for why, n in Counter(plan.removal.refused.values()).items()]
        n = plan.removal.n_shared
        if plan.removal.unknown:
            said.append(OTHER_VERSION_KEEPS_ALL)
        elif n:
            said.append(f"The answers of {n} {wording.plural(n, 'model')} stay: other runs use them.")
    return said + [_staying(each) for each in plan.stays]


def _refused(why: str, n: int) -> str:
    return f"1 run stays: {why}." if n == 1 else f"{n} runs stay, each because {why}."


def _staying(found: Staying) -> str:
    why = found.why.replace("{them}", "it" if found.n == 1 else "them")
    return f"{_items_of_kind(found.kind, found.n)} {'stays' if found.n == 1 else 'stay'}: {why}."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


_CHECKED = {
    "record": ("result or note", "results and notes"),
    "artefact": ("artefact of calibration", "artefacts of calibration"),
    "unpacked model": ("file of unpacked models", "files of unpacked models"),
    "upload": ("upload", "uploads"),
    "export": ("file of models taken away", "files of models taken away"),
}
_RECORD_NAMES = {
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
_NAMELESS_ADVICE = "Nothing finds them any more; they take room until the data folder is made anew."
_NAME_LENGTH = 16


@dataclass(frozen=True, kw_only=True)
class DamagedRow:
    """One thing that is damaged: what it is, what it is called, what is wrong with it, what to do."""

    what: str
    name: str
    fault: str
    advice: str


def verification_sentence(found: Verification, zone: tzinfo | None) -> str:
    """What was found, and when."""
    n = sum(found.n_checked.values())
    when = wording.moment(found.finished_at, zone)
    if found.n_damaged:
        were = "was" if found.n_damaged == 1 else "were"
        return f"✕ {found.n_damaged:,} of {n:,} {were} damaged when everything was read, {when}."
    return f"✓ Everything is as it was written; it was read {when}."


def verification_basis(found: Verification) -> str:
    """What was read."""
    parts = [f"{n:,} {_CHECKED[kind][n != 1]}" for kind, n in found.n_checked.items() if n and kind in _CHECKED]
    return (
        f"{', '.join(parts)}: {wording.size(found.n_bytes)} in {wording.duration_words(_took(found))}." if parts else ""
    )


def damaged_rows(found: Verification) -> list[DamagedRow]:
    """What is damaged."""
    return [_damaged_row(damage) for damage in found.damaged]


def _damaged_row(damage: Damage) -> DamagedRow:
    kind, _, key = damage.name.partition("/")
    if not damage.name:
        return DamagedRow(what="Entries", name=NO_AMOUNT, fault=damage.what, advice=_NAMELESS_ADVICE)
    match damage.kind:
        case "record":
            what, advice = _RECORD_NAMES.get(kind, "An entry"), _ADVICE.get(kind, _ADVICE["note"])
            return DamagedRow(what=what, name=key[:_NAME_LENGTH], fault=damage.what, advice=advice)
        case "artefact":
            what, name = "What calibration left", damage.name[:_NAME_LENGTH]
            return DamagedRow(what=what, name=name, fault=damage.what, advice=_ADVICE["artefact"])
        case "unpacked model":
            what = "An unpacked model"
            return DamagedRow(what=what, name=damage.name, fault=damage.what, advice=_ADVICE["unpacked model"])
        case "upload":
            name = wording.reference_title(damage.name)
            return DamagedRow(what="An uploaded text", name=name, fault=damage.what, advice=_ADVICE["upload"])
        case "export":
            what = "A file of a model taken away"
            return DamagedRow(what=what, name=damage.name, fault=damage.what, advice=_ADVICE["export file"])


def _took(found: Verification) -> float:
    return max(0.0, found.finished_at - found.started_at)
