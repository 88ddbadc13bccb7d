"""The words for what a search has found: one sentence, and how it got there.

Plain text: whoever shows it escapes it.
"""

from collections.abc import Mapping
from typing import Any

from sparsedash.reporting import wording
from sparsedash.reporting.verdicts import accuracy_open, allowed, perplexity_cost
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.searches import FindResult
from sparsedash.stats.tolerance import FEWEST_PASSAGES, Tolerance, ToleranceVerdict


def find_sentence(result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]) -> str:
    """How much can go, in one sentence. verdicts: on the trials, by their sparsity in per mille."""
    tolerance = Tolerance(ratio=result.ratio, points=result.points)
    if not result.finished:
        return _so_far(result, method)
    if result.answer is not None and result.answer in verdicts:
        found = verdicts[result.answer]
        cost = perplexity_cost(found.perplexity)
        can = f"{wording.permille(result.answer)} {_of_what(method)} can {_go(method)}"
        return f"{can}: {cost}, allowed {result.ratio:g} ×{accuracy_open(found)}{_what_is_next(result, verdicts)}."
    if result.n_passages < FEWEST_PASSAGES:
        what = f"{result.n_passages:,} {wording.plural(result.n_passages, 'passage')}"
        return f"Too few to judge: {what} cannot show that anything stays within {allowed(tolerance)}."
    nothing = f"Nothing was found that can {_go(method)} within {allowed(tolerance)}"
    return f"{nothing}{_what_is_next(result, verdicts)}."


def find_steps(result: FindResult) -> str:
    """How the search got there: trials, steps and what was made of those that stayed undecided."""
    n, steps = len(result.trials), len(result.steps)
    said = f"{n} {wording.plural(n, 'trial')} among {steps:,} {wording.plural(steps, 'step')} of sparsity"
    answered = sum(trial.n_passages for trial in result.trials)
    said += f", {answered:,} passages answered instead of {steps * result.n_passages:,}."
    unknown = [trial.permille for trial in result.trials if trial.verdict == "undecided"]
    if unknown:
        said += f" {wording.permilles(tuple(sorted(unknown)))} stayed undecided and counted as too much."
    return said


def find_document(
    result: FindResult, method: MethodSettings, verdicts: Mapping[int, ToleranceVerdict]
) -> dict[str, Any]:
    """The search as JSON values; docs/cli.md describes its fields."""
    return {
        "answer_percent": None if result.answer is None else result.answer / 10,
        "sentence": find_sentence(result, method, verdicts).replace(wording.NBSP, " "),
        "tolerance": {"ratio": result.ratio, "points": result.points},
        "passages": result.n_passages,
        "steps_percent": [step / 10 for step in result.steps],
        "trials": [
            {"sparsity_percent": trial.permille / 10, "verdict": trial.verdict, "passages": trial.n_passages}
            for trial in result.trials
        ],
        "finished": result.finished,
    }


def _so_far(result: FindResult, method: MethodSettings) -> str:
    inside = [trial.permille for trial in result.trials if trial.verdict == "within"]
    outside = [trial.permille for trial in result.trials if trial.verdict != "within"]
    can = [f"{wording.permille(max(inside))} {_of_what(method)} can {_go(method)}"] if inside else []
    cannot = [f"{wording.permille(min(outside))} is not shown to be within"] if outside else []
    found = ", ".join([*can, *cannot])
    return f"So far: {found}; the search goes on." if found else "The search for how much can go has begun."


def _what_is_next(result: FindResult, verdicts: Mapping[int, ToleranceVerdict]) -> str:
    """What was found one step further."""
    step = result.next_step
    if step is None:
        return "; it is the most that can be tried"
    judged, where = verdicts.get(step), wording.permille(step)
    if judged is not None and judged.verdict == "beyond":
        return f"; at {where} {judged.decided_by[0]} is beyond what is allowed"
    n = judged.n_passages if judged is not None else result.n_passages
    return f"; {n:,} {wording.plural(n, 'passage')} leave {where} undecided"


def _of_what(method: MethodSettings) -> str:
    return "of the MLP channels" if method.takes_channels else wording.of_what(method)


def _go(method: MethodSettings) -> str:
    return "go" if method.takes_channels else "be zero"
