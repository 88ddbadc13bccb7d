"""Two models' answers to the same passages: which broke or were fixed, side by side, and as files
of samples.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, element, escape, join, spreadsheet_safe
from sparsedash.schema.errors import encodable
from sparsedash.schema.records import Outcome, Passages, Record, Run
from sparsedash.service.backend import Backend
from sparsedash.service.stored_results import run_passages
from sparsedash.stats.significance import shared_outcomes
from sparsedash.storage.answers.parsed_answers import sha256_of

Kind = Literal["all", "both-right", "broke", "fixed", "both-wrong"]
"""The two by two of the answers, and all four together, to which they add up."""

Order = Literal["largest change first", "file order"]

KINDS: dict[Kind, str] = {
    "all": "All",
    "both-right": "Both right",
    "broke": "Broke",
    "fixed": "Fixed",
    "both-wrong": "Both wrong",
}
ADDRESS_LENGTH = 16
"""Characters of a record's key that name it in an address; enough to be the only one."""
SHOWN_CHARACTERS = 4_000
"""Of a longer text the beginning is shown: one endless word keeps a browser busy for minutes."""
DIVERGENCE_SIGN = "❘"
_MARK = element(
    "span",
    element(
        "span",
        escape(DIVERGENCE_SIGN),
        aria_hidden="true",
    ),
    css="sd-part",
    role="img",
    aria_label="parts",
)
_WORDS = re.compile(r"\S+\s*|\s+")
KIND_OF: dict[tuple[bool, bool], Kind] = {
    (True, True): "both-right",
    (True, False): "broke",
    (False, True): "fixed",
    (False, False): "both-wrong",
}
SIDES: tuple[str, str] = ("left", "right")
"""The models of a pair, as the columns of its files name them."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two records under the names they are shown by, with the passages that both answered; the
    right one is judged.

    hidden: nothing shows which side is which. turned: the right model stands first; only where it
    is hidden. stem: what the names of its files begin with.
    """

    left_name: str
    left: Record
    right_name: str
    right: Record
    hidden: bool = False
    turned: bool = False
    stem: str = ""

    def outcomes(self, position: int) -> tuple[Outcome, Outcome]:
        """Both answers to one passage."""
        return self.left.outcomes[position], self.right.outcomes[position]

    def texts(self, passages: Passages | None) -> Passages | None:
        """Of these passages, those that both records answer, by the positions of their outcomes; or
        None.
        """
        if passages is None or len(passages.indices) == len(self.left.outcomes):
            return passages
        positions = {index: position for position, index in enumerate(passages.indices)}
        shared = [positions[outcome.index] for outcome in self.left.outcomes]
        return replace(
            passages,
            indices=tuple(passages.indices[i] for i in shared),
            contexts=tuple(passages.contexts[i] for i in shared),
            targets=tuple(passages.targets[i] for i in shared),
        )

    def fall(self, position: int) -> float:
        """Fall of the target's log-probability from left to right; negative if it rose."""
        first, second = self.outcomes(position)
        return first.log_likelihood - second.log_likelihood

    def kinds(self, positions: Sequence[int]) -> dict[Kind, list[int]]:
        """These passages by their kind, in the order given; each is of one kind, and in "all"."""
        by_kind: dict[Kind, list[int]] = {
            kind: list(positions) if kind == "all" else [] for kind in KINDS
        }
        for position in positions:
            first, second = self.outcomes(position)
            by_kind[KIND_OF[first.last_word_right, second.last_word_right]].append(
                position
            )
        return by_kind

    def differing(self, positions: Sequence[int]) -> list[int]:
        """Those of these passages that the two answer with different words."""
        differing = []
        for position in positions:
            first, second = self.outcomes(position)
            if first.answer != second.answer:
                differing.append(position)
        return differing

    def of_kind(
        self, positions: Sequence[int], kind: Kind, only_different: bool
    ) -> list[int]:
        """Those of these passages of one kind; only_different: that the two answer with different
        words.
        """
        of_kind = self.kinds(positions)[kind]
        return self.differing(of_kind) if only_different else of_kind

    def ordered(self, positions: Sequence[int], kind: Kind, order: Order) -> list[int]:
        """The passages in this order. The largest change is the largest fall, or rise where
        passages were fixed.
        """
        if order == "file order":
            return sorted(positions)
        sign = 1 if kind == "fixed" else -1
        return sorted(
            positions,
            key=lambda position: (sign * self.fall(position), position),
        )

    def holding(self, text: str, passages: Passages | None) -> Sequence[int]:
        """The passages with this text in their context, target or either answer, whatever its case;
        all for no text.
        """
        everything = range(len(self.left.outcomes))
        sought = text.strip().casefold()
        if not sought:
            return everything
        positions = []
        for position in everything:
            first, second = self.outcomes(position)
            context = passages.contexts[position] if passages else ""
            words = f"{context} {first.target}\n{first.answer}\n{second.answer}"
            if sought in words.casefold():
                positions.append(position)
        return positions

    def shown(self, left: T, right: T) -> tuple[T, T]:
        """Values of the left and the right model, in the order in which they are shown."""
        return (right, left) if self.turned else (left, right)

    @property
    def titles(self) -> tuple[str, str]:
        """The headings, in the order shown."""
        if self.hidden:
            return "A", "B"
        return side_title(self.left_name, self.left), side_title(
            self.right_name, self.right
        )

    @property
    def colours(self) -> tuple[str, str]:
        """The classes that give both sides their colours, in the order shown."""
        if self.hidden:
            return "sd-hidden", "sd-hidden"
        return _colour(self.left), _colour(self.right)

    def beside(
        self, left: Html, right: Html, others: Mapping[str, Html] | None = None
    ) -> Html:
        """Both sides' markup under their headings, one beside the other.

        others: markup of more sparse models, by their names; not shown while the sides are hidden.
        """
        columns = list(
            zip(self.titles, self.colours, self.shown(left, right), strict=True)
        )
        css = "sd-answers"
        if others and not self.hidden:
            columns += [(name, "sd-sparse", markup) for name, markup in others.items()]
            css = "sd-answers sd-many"
        sections = []
        for title, colour, markup in columns:
            head = element("h3", escape(title))
            sections.append(element("section", head, markup, css=f"sd-answer {colour}"))
        return element("div", *sections, css=css)


@dataclass(frozen=True, kw_only=True)
class RecordChoice:
    """A record that can be chosen. address: its name in the page's address."""

    key: str
    name: str
    address: str


def record_choices(run: Run, runs: Sequence[Run]) -> list[RecordChoice]:
    """The records over this run's passages that can be chosen: its own first, then those of other
    runs, each once.
    """
    choices: dict[str, RecordChoice] = {}
    for key, name in wording.record_names(run).items():
        choices[key] = RecordChoice(key=key, name=name, address=name)
    for other_run in runs:
        if run_passages(other_run) != run_passages(run):
            continue
        settings = other_run.settings
        about = f"{wording.reference_title(settings.model)}, {settings.dtype}, {wording.method_titles(settings)}"
        calibrated = wording.calibration_words(settings.calibration)
        for key, name in wording.record_names(other_run).items():
            label = (
                f"{name}{wording.of_budget(settings.budget)} · {about}, {calibrated}"
            )
            address = key[:ADDRESS_LENGTH]
            choices.setdefault(key, RecordChoice(key=key, name=label, address=address))
    names = unique_names({key: choice.name for key, choice in choices.items()})
    return [replace(choice, name=names[key]) for key, choice in choices.items()]


def unique_names(names: Mapping[str, str]) -> dict[str, str]:
    """The names by their keys, with a number where one came before: a widget tells its options
    apart by name alone.
    """
    unique = {}
    used = set[str]()
    n = Counter[str]()
    for key, name in names.items():
        candidate = name
        while candidate in used:
            n[name] += 1
            candidate = f"{name} ({n[name] + 1})"
        used.add(candidate)
        unique[key] = candidate
    return unique


def load_pair(
    backend: Backend, left: RecordChoice, right: RecordChoice, stem: str = ""
) -> Pair | None:
    """Both records, or None where one is lost or they do not answer the same passages. stem: see
    `Pair`.
    """
    first = backend.record(left.key)
    second = backend.record(right.key)
    if first is None or second is None or first.passages_key != second.passages_key:
        return None
    # One of them may have stopped early: what it did not answer is not part of the comparison.
    shared = shared_outcomes(first, second)
    if not shared:
        return None
    left_outcomes, right_outcomes = zip(*shared, strict=True)
    return Pair(
        left_name=left.name,
        left=replace(first, outcomes=left_outcomes),
        right_name=right.name,
        right=replace(second, outcomes=right_outcomes),
        stem=stem,
    )


def _colour(record: Record) -> str:
    return "sd-sparse" if record.pruned else "sd-dense"


def side_title(name: str, record: Record) -> str:
    """The heading of one side: "Dense", "Sparse, 20 %"."""
    if record.pruned is None:
        return f"D{name[1:]}" if name.startswith("dense") else f"Dense, {name}"
    return f"Sparse, {name}"


def end_of(text: str, most: int) -> str:
    """The text's last characters, so many at most, after a sign where it was cut."""
    return text if len(text) <= most else f"… {text[-most:]}"


def mark_divergence(first: str, second: str) -> tuple[Html, Html]:
    """Both texts as markup, escaped, each with a mark behind the words they begin with alike; no
    mark in equal ones.

    What stands before the mark is in an element of class sd-alike. Of a long text the beginning is
    shown.
    """
    first_words = _words(first)
    second_words = _words(second)
    n_alike = 0
    for one, two in zip(first_words, second_words, strict=False):
        if one.rstrip() != two.rstrip():
            break
        n_alike += 1
    if n_alike == len(first_words) == len(second_words):
        return escape("".join(first_words)), escape("".join(second_words))
    return _marked(first_words, n_alike), _marked(second_words, n_alike)


def _words(text: str) -> list[str]:
    """The words of a text, of a long one of its beginning, each with the space after it."""
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"
    return _WORDS.findall(shown)


def _marked(words: Sequence[str], n_alike: int) -> Html:
    """The words with a mark behind the first ones."""
    after = escape("".join(words[n_alike:]))
    if not n_alike:
        return join(_MARK, after)
    before = escape("".join(words[:n_alike]))
    return join(element("span", before, css="sd-alike"), _MARK, after)


def view_file(
    pair: Pair,
    positions: Sequence[int],
    passages: Passages | None,
    kind: Literal["csv", "parquet"],
) -> bytes:
    """These passages with both answers, as UTF-8 CSV or parquet, numbered as on the page.

    target_rank: of the target's first token, or 0.

    In CSV text that a spreadsheet would run begins with an apostrophe; nothing runs that of
    parquet.
    """
    # Loaded when asked for: the page need not wait for them.
    import pyarrow as pa
    from pyarrow.csv import write_csv
    from pyarrow.parquet import write_table

    safe = encodable
    if kind == "csv":
        safe = _csv_safe
    outcomes = [pair.left.outcomes[i] for i in positions]
    columns: dict[str, list[Any]] = {
        "passage": [outcome.index + 1 for outcome in outcomes],
        "context": [safe(passages.contexts[i]) if passages else "" for i in positions],
        "target": [safe(outcome.target) for outcome in outcomes],
    }
    for side, record in zip(SIDES, (pair.left, pair.right), strict=True):
        outcomes = [record.outcomes[i] for i in positions]
        ranks = [
            outcome.tokens[0].rank if outcome.tokens else 0 for outcome in outcomes
        ]
        columns[f"{side}_answer"] = [safe(outcome.answer) for outcome in outcomes]
        columns[f"{side}_correct"] = [outcome.last_word_right for outcome in outcomes]
        columns[f"{side}_log_likelihood_nats"] = [
            outcome.log_likelihood for outcome in outcomes
        ]
        columns[f"{side}_target_rank"] = ranks
    file = io.BytesIO()
    write = write_csv if kind == "csv" else write_table
    write(pa.table(columns), file)
    return file.getvalue()


def _csv_safe(text: str) -> str:
    return spreadsheet_safe(encodable(text))


def harness_samples(record: Record, passages: Passages) -> bytes:
    """One JSON line for each passage, field by field as lm_eval 0.4.13 writes its samples of
    `lambada_openai`.

    resps, filtered_resps: the log-likelihood and whether greedy decoding gives the target, as text.
    perplexity: a log-likelihood, as there. A test holds one line of a real file.
    """
    lines = []
    for outcome, text in zip(
        record.outcomes,
        passages.contexts,
        strict=True,
    ):
        context = encodable(text)
        target = f" {encodable(outcome.target)}"
        doc = {"text": context + target}
        response = [str(outcome.log_likelihood), str(outcome.last_word_right)]
        hashed = {
            "doc": json.dumps(doc, indent=2, ensure_ascii=False),
            "prompt": context,
            "target": target,
        }
        sample = {
            "doc_id": outcome.index,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": context, "arg_1": target}},
            "resps": [[response]],
            "filtered_resps": [response],
            "filter": "none",
            "metrics": ["perplexity", "acc"],
            **{f"{name}_hash": sha256_of(value) for name, value in hashed.items()},
            "perplexity": outcome.log_likelihood,
            "acc": int(outcome.last_word_right),
        }
        lines.append(json.dumps(sample, ensure_ascii=True))
    return "".join(f"{line}\n" for line in lines).encode()
