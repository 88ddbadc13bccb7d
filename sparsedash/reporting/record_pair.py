"""Two models' answers to the same passages: which answers broke, which were mended, in which order to read them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from sparsedash.reporting import model_names, wording
from sparsedash.schema.records import Outcome, Passages, Record, Run
from sparsedash.service.backend import Backend
from sparsedash.stats.significance import shared_outcomes

Kind = Literal["all", "both-right", "broke", "mended", "both-wrong"]
"""The two by two of the verdicts, and all four together, to which they add up."""

Order = Literal["largest change first", "file order"]

KINDS: dict[Kind, str] = {
    "all": "All",
    "both-right": "Both right",
    "broke": "Broke",
    "mended": "Mended",
    "both-wrong": "Both wrong",
}
ADDRESS_LENGTH = 16
"""Characters of a record's key that name it in an address; enough to be the only one."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two records under the names they are shown by, with the passages that both answered; the right one is judged."""

    left_name: str
    left: Record
    right_name: str
    right: Record

    def outcomes(self, position: int) -> tuple[Outcome, Outcome]:
        """Both answers to one passage."""
        return self.left.outcomes[position], self.right.outcomes[position]

    def texts(self, passages: Passages | None) -> Passages | None:
        """Of these passages, those that both records answer, by the positions of their outcomes; or None."""
        if passages is None or len(passages.indices) == len(self.left.outcomes):
            return passages
        at = {index: position for position, index in enumerate(passages.indices)}
        if not all(outcome.index in at for outcome in self.left.outcomes):
            return None
        found = [at[outcome.index] for outcome in self.left.outcomes]
        return replace(
            passages,
            indices=tuple(passages.indices[i] for i in found),
            contexts=tuple(passages.contexts[i] for i in found),
            targets=tuple(passages.targets[i] for i in found),
        )

    def fall(self, position: int) -> float:
        """How much the target's log-probability fell from left to right; negative where it rose."""
        left, right = self.outcomes(position)
        return left.log_likelihood - right.log_likelihood

    def kinds(self, positions: Sequence[int]) -> dict[Kind, list[int]]:
        """These passages by their kind, in the order given; each is of one kind, and in "all"."""
        found: dict[Kind, list[int]] = {kind: [] for kind in KINDS}
        for position in positions:
            found["all"].append(position)
            found[_kind(*self.outcomes(position))].append(position)
        return found

    def differing(self, positions: Sequence[int]) -> list[int]:
        """Those of these passages that the two answer with different words."""
        return [i for i in positions if len({outcome.answer for outcome in self.outcomes(i)}) > 1]

    def ordered(self, positions: Sequence[int], kind: Kind, order: Order) -> list[int]:
        """The passages in this order. The largest change is the largest fall, or rise where passages were mended."""
        if order == "file order":
            return sorted(positions)
        sign = 1 if kind == "mended" else -1
        return sorted(positions, key=lambda position: (sign * self.fall(position), position))

    def holding(self, text: str, passages: Passages | None) -> Sequence[int]:
        """The passages with this text in their context, target or either answer, whatever its case; all for no text."""
        everything = range(len(self.left.outcomes))
        sought = text.strip().casefold()
        if not sought:
            return everything
        return [i for i in everything if sought in self._text(i, passages).casefold()]

    def _text(self, position: int, passages: Passages | None) -> str:
        left, right = self.outcomes(position)
        context = passages.contexts[position] if passages else ""
        return "\n".join((f"{context} {left.target}", left.answer, right.answer))


@dataclass(frozen=True, kw_only=True)
class RecordChoice:
    """A record that can be chosen. address: its name in the page's address."""

    key: str
    name: str
    address: str


def offers(run: Run, runs: Sequence[Run]) -> list[RecordChoice]:
    """The records over this run's passages that can be chosen: its own first, then those of other runs, each once."""
    found: dict[str, RecordChoice] = {}
    for key, name in model_names.record_names(run):
        found.setdefault(key, RecordChoice(key=key, name=name, address=name))
    for other in runs:
        if _passages(other) != _passages(run):
            continue
        about = f"{wording.title(other.settings.model)}, {other.settings.dtype}, {wording.methods(other.settings)}"
        calibrated = wording.calibrated(other.settings.calibration)
        for key, name in model_names.record_names(other):
            label = f"{name} · {about}, {calibrated}"
            found.setdefault(key, RecordChoice(key=key, name=label, address=key[:ADDRESS_LENGTH]))
    names = told_apart({key: offer.name for key, offer in found.items()})
    return [replace(offer, name=names[key]) for key, offer in found.items()]


def told_apart(names: Mapping[str, str]) -> dict[str, str]:
    """The names by their keys, with a number where one came before: a widget tells its options apart by name alone."""
    seen: Counter[str] = Counter()
    unique = {}
    for key, name in names.items():
        seen[name] += 1
        unique[key] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return unique


def pair(backend: Backend, left: RecordChoice, right: RecordChoice) -> Pair | None:
    """Both records, or None where one is lost or they do not answer the same passages."""
    first, second = backend.record(left.key), backend.record(right.key)
    if first is None or second is None or first.passages_key != second.passages_key:
        return None
    shared = shared_outcomes(first, second)
    if not shared:
        return None
    if len(shared) < max(len(first.outcomes), len(second.outcomes)):
        # One of them stopped early: what it did not answer is nobody's mistake, and not part of the comparison.
        first = replace(first, outcomes=tuple(one for one, _ in shared))
        second = replace(second, outcomes=tuple(two for _, two in shared))
    return Pair(left_name=left.name, left=first, right_name=right.name, right=second)


def _passages(run: Run) -> tuple[str | None, int | None, int | None]:
    """What tells apart the sets of passages that runs answer."""
    evaluation = run.settings.evaluation
    return run.corpora.get("evaluation"), evaluation.n_passages, evaluation.shuffle_seed


def _kind(left: Outcome, right: Outcome) -> Kind:
    if left.last_word_right:
        return "both-right" if right.last_word_right else "broke"
    return "mended" if right.last_word_right else "both-wrong"
