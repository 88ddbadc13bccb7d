"""What is said before runs are deleted, and after it. Plain text: whoever shows it escapes it."""

from collections.abc import Mapping

from sparsedash.reporting.wording import plural
from sparsedash.service.run_removal import Removal

UNKNOWN = "All answers stay: other runs here were written by another version of SparseDash, and may need them."


def asked(plan: Removal, titles: Mapping[str, str]) -> list[str]:
    """What will go and what stays, in sentences. titles: of the runs, by their keys."""
    said = []
    if plan.runs:
        n, models = len(plan.runs), len(plan.records)
        what = f"“{titles[plan.runs[0].key]}”" if n == 1 else f"{n} runs"
        said.append(f"Delete {what}, with the answers of {models} {plural(models, 'model')}? It cannot be undone.")
    if plan.n_shared and not plan.unknown:
        said.append(f"The answers of {plan.n_shared} {plural(plan.n_shared, 'model')} stay: other runs use them.")
    if plan.unknown:
        said.append(UNKNOWN)
    return said + _refused(plan, titles)


def told(done: Removal, titles: Mapping[str, str]) -> str:
    """What was deleted, in one line."""
    n, models = len(done.runs), len(done.records)
    what = titles[done.runs[0].key] if n == 1 else f"{n} runs" if n else "Nothing"
    verb = "were" if n > 1 else "was"
    with_it = f", with the answers of {models} {plural(models, 'model')}" if models else ""
    return " ".join([f"{what} {verb} deleted{with_it}.", *_refused(done, titles)])


def _refused(plan: Removal, titles: Mapping[str, str]) -> list[str]:
    return [f"“{titles.get(key, key)}” stays: {why}." for key, why in plan.refused.items()]
