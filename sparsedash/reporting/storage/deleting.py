"""What is said before something of the data folder is deleted, and after it. Plain text: who shows it escapes it."""

from collections import Counter
from collections.abc import Mapping

from sparsedash.reporting import wording
from sparsedash.reporting.runs.deleting import UNKNOWN
from sparsedash.reporting.storage.held import TITLES, counted
from sparsedash.service.upkeep.cleanup import Cleanup, Staying
from sparsedash.service.upkeep.holdings import ARTEFACTS, HoldingKind

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


def asked(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
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


def told(done: Cleanup, titles: Mapping[str, str]) -> str:
    """What was deleted, in one line."""
    if not done.deletes:
        return " ".join(["Nothing was deleted.", *_stays(done)])
    size = f", {wording.size(done.n_bytes)}" if done.n_bytes else ""
    return " ".join([f"Deleted: {_listed(_parts(done, titles))}{size}.", *_stays(done)])


def _parts(plan: Cleanup, titles: Mapping[str, str]) -> list[str]:
    parts = []
    if plan.removal is not None and plan.removal.runs:
        runs, n = plan.removal.runs, len(plan.removal.records)
        what = f"“{titles.get(runs[0].key, runs[0].key)}”" if len(runs) == 1 else counted("runs", len(runs))
        parts.append(f"{what} with the answers of {n} {wording.plural(n, 'model')}" if n else what)
    kinds = Counter(item.kind for item in plan.items)
    return parts + [_of_kind(kind, n) for kind, n in kinds.items()]


def _of_kind(kind: HoldingKind, n: int) -> str:
    """ "2 unpacked models", "40 entries of calibration statistics"."""
    match kind:
        case "models":
            return f"{n:,} unpacked {wording.plural(n, 'model')}"
        case "uploads":
            return f"{n:,} uploaded {wording.plural(n, 'text')}"
        case "timings" | "exports" | "logs":
            return counted(kind, n)
        case _:
            return f"{counted('statistics', n)} of “{TITLES[kind]}”"


def _stays(plan: Cleanup) -> list[str]:
    said = []
    if plan.removal is not None:
        said += [_refused(why, n) for why, n in Counter(plan.removal.refused.values()).items()]
        n = plan.removal.n_shared
        if plan.removal.unknown:
            said.append(UNKNOWN)
        elif n:
            said.append(f"The answers of {n} {wording.plural(n, 'model')} stay: other runs use them.")
    return said + [_staying(each) for each in plan.stays]


def _refused(why: str, n: int) -> str:
    return f"1 run stays: {why}." if n == 1 else f"{n} runs stay, each because {why}."


def _staying(found: Staying) -> str:
    why = found.why.replace("{them}", "it" if found.n == 1 else "them")
    return f"{_of_kind(found.kind, found.n)} {'stays' if found.n == 1 else 'stay'}: {why}."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
