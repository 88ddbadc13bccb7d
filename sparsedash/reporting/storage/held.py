"""What the data folder holds, in words: a row for each kind, model and run. Plain text: whoever shows it escapes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import tzinfo

from sparsedash.reporting import wording
from sparsedash.reporting.html import Table, table
from sparsedash.schema.pair_records import RunMark
from sparsedash.service.upkeep.cleanup import DELETABLE
from sparsedash.service.upkeep.holdings import Holding, HoldingKind, Holdings, ModelHolding, RunHolding
from sparsedash.service.upkeep.housekeeping import ArtefactRoom

NOTHING = "–"
_SHORT = 12
"""Characters of an identity, where nobody here has a name for it."""

TITLES: dict[HoldingKind, str] = {
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


def counted(kind: HoldingKind, n: int) -> str:
    """ "12 runs", "1 entry"."""
    one, many = _NOUNS.get(kind, ("entry", "entries"))
    return f"{n:,} {one if n == 1 else many}"


def amount(n_bytes: int) -> str:
    """A size; nothing where there is none."""
    return wording.size(n_bytes) if n_bytes else NOTHING


def opening(held: Holdings) -> str:
    """The page's answer."""
    free = f"{wording.size(held.free_bytes)} are free on its disk"
    if held.is_empty:
        return f"The data folder holds nothing yet; {free}."
    return f"The data folder takes {wording.size(held.n_bytes)}; {free}."


def cards_of(held: Holdings, room: ArtefactRoom) -> list[tuple[str, str, str]]:
    """The numbers that matter, each with a name before and a remark behind it."""
    results = sum(held.kinds[kind].n_bytes for kind in ("runs", "texts", "timings") if kind in held.kinds)
    files = sum(held.kinds[kind].n_bytes for kind in ("models", "exports", "uploads") if kind in held.kinds)
    return [
        ("Results", amount(results), counted("runs", len(held.runs))),
        ("Calibration", amount(held.artefact_bytes), f"of {gigabytes(room.n_bytes)} that it may take"),
        ("Models and texts in files", amount(files), "unpacked, taken away, uploaded"),
    ]


def gigabytes(n_bytes: int) -> str:
    """As the limit counts them, by 2**30."""
    return f"{n_bytes / 2**30:,.10g}{wording.NBSP}GB"


def kind_rows(held: Holdings, zone: tzinfo | None) -> list[tuple[HoldingKind, HeldRow, bool]]:
    """Of each kind that there is something of the row, and whether it can be deleted as a whole."""
    return [(kind, _of_kind(kind, held.kinds[kind], zone), kind in DELETABLE) for kind in TITLES if kind in held.kinds]


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
        number=counted("runs", model.n_runs) if model.n_runs else "no run",
        size=amount(model.n_bytes),
        used=wording.moment(model.used_at, zone) if model.used_at else NOTHING,
    )


def model_title(model: ModelHolding) -> str:
    """By what names it is known here; else the beginning of its identity."""
    known = dict.fromkeys(wording.title(reference) for reference in model.references)
    return ", ".join(known) or f"A model that no run here names ({model.identity.removeprefix('sha256:')[:_SHORT]})"


def run_row(found: RunHolding, marks: Mapping[str, RunMark], zone: tzinfo | None) -> HeldRow:
    """One run: what only it takes, and what it shares."""
    mark = marks.get(found.run.key, RunMark())
    shared = f"shares {wording.size(found.shared_bytes)} with other runs" if found.shared_bytes else ""
    pinned = "★ pinned, so it stays" if mark.pinned else ""
    about = [pinned, wording.title_of(found.run) if mark.name else "", wording.methods(found.run.settings), shared]
    n = len(found.run.sparse)
    return HeldRow(
        title=mark.name or wording.title_of(found.run),
        about=" · ".join(filter(None, about)),
        number=f"{n} sparse {wording.plural(n, 'model')}",
        size=amount(found.n_bytes),
        used=wording.moment(found.run.started_at, zone),
    )


def whole_table(held: Holdings, marks: Mapping[str, RunMark], zone: tzinfo | None) -> Table:
    """All three tables as one, every run in it."""
    found = [
        *(("kind", row) for _, row, _ in kind_rows(held, zone)),
        *(("model", model_row(model, zone)) for model in held.models),
        *(("run", run_row(run, marks, zone)) for run in held.runs),
    ]
    rows = [[by, row.title, row.about, row.number, row.size, row.used] for by, row in found]
    return table("What the data folder holds", "", ["By", "What", "About", "How many", "Size", "Last use"], rows)


def _of_kind(kind: HoldingKind, holding: Holding, zone: tzinfo | None) -> HeldRow:
    return HeldRow(
        title=TITLES[kind],
        about=_ABOUT.get(kind, ""),
        number=counted(kind, holding.n),
        size=amount(holding.n_bytes),
        used=wording.moment(holding.used_at, zone) if holding.used_at else NOTHING,
    )
