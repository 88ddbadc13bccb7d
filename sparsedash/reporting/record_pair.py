"""Two models' answers to the same passages: what broke or was fixed, side by side, and as files."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Literal, TypeVar

from sparsedash.reporting import wording
from sparsedash.reporting.html import Html, Table, element, escape, join
from sparsedash.reporting.wording import NBSP
from sparsedash.schema.errors import encodable
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


def record_choices(run: Run, runs: Sequence[Run]) -> list[RecordChoice]:
    """The records over this run's passages that can be chosen: its own first, then those of other runs, each once."""
    found: dict[str, RecordChoice] = {}
    for key, name in wording.record_names(run):
        found.setdefault(key, RecordChoice(key=key, name=name, address=name))
    for other in runs:
        if _passages(other) != _passages(run):
            continue
        model = wording.reference_title(other.settings.model)
        about = f"{model}, {other.settings.dtype}, {wording.method_titles(other.settings)}"
        calibrated = wording.calibration_words(other.settings.calibration)
        for key, name in wording.record_names(other):
            label = f"{name} · {about}, {calibrated}"
            found.setdefault(key, RecordChoice(key=key, name=label, address=key[:ADDRESS_LENGTH]))
    names = unique_names({key: offer.name for key, offer in found.items()})
    return [replace(offer, name=names[key]) for key, offer in found.items()]


def unique_names(names: Mapping[str, str]) -> dict[str, str]:
    """The names by their keys, with a number where one came before: a widget tells its options apart by name alone."""
    seen: Counter[str] = Counter()
    unique = {}
    for key, name in names.items():
        seen[name] += 1
        unique[key] = name if seen[name] == 1 else f"{name} ({seen[name]})"
    return unique


def load_pair(backend: Backend, left: RecordChoice, right: RecordChoice) -> Pair | None:
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


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """How a pair is shown.

    hidden: nothing shows which side is which. turned: the right model stands first; only where it is hidden.
    """

    pair: Pair
    hidden: bool = False
    turned: bool = False

    def shown(self, left: T, right: T) -> tuple[T, T]:
        """What belongs to the left and the right model, in the order in which it is shown."""
        return (right, left) if self.turned else (left, right)

    @property
    def titles(self) -> tuple[str, str]:
        """The headings, in the order shown."""
        if self.hidden:
            return "A", "B"
        pair = self.pair
        return side_title(pair.left_name, pair.left), side_title(pair.right_name, pair.right)

    @property
    def colours(self) -> tuple[str, str]:
        """The classes that give both sides their colours, in the order shown."""
        left, right = self.shown(self.pair.left, self.pair.right)
        return self._css(left), self._css(right)

    def beside(self, left: Html, right: Html, others: Mapping[str, Html] | None = None) -> Html:
        """Both sides' markup under their headings, one beside the other.

        others: markup of more sparse models, by their names; not shown while the sides are hidden.
        """
        named = zip(self.titles, self.colours, self.shown(left, right), strict=True)
        more = [] if self.hidden or not others else [(name, "sd-sparse", inside) for name, inside in others.items()]
        sections = [
            element("section", element("h3", escape(title)), inside, css=f"sd-answer {css}")
            for title, css, inside in (*named, *more)
        ]
        return element("div", join(*sections), css="sd-answers sd-many" if more else "sd-answers")

    def _css(self, record: Record) -> str:
        if self.hidden:
            return "sd-hidden"
        return "sd-sparse" if record.pruned else "sd-dense"


def side_title(name: str, record: Record) -> str:
    """The heading of one side: "Dense", "Sparse, 20 %"."""
    if record.pruned is None:
        return f"D{name[1:]}" if name.startswith("dense") else f"Dense, {name}"
    return f"Sparse, {name}"


SHOWN_CHARACTERS = 4_000
"""Of a longer text the beginning is shown: one endless word keeps a browser busy for minutes."""

DIVERGENCE_SIGN = "❘"
_MARK = element(
    "span", element("span", escape(DIVERGENCE_SIGN), aria_hidden="true"), css="sd-part", role="img", aria_label="parts"
)
_WORDS = re.compile(r"\S+\s*|\s+")


def mark_divergence(first: str, second: str) -> tuple[Html, Html]:
    """Both texts as markup, escaped, each with the mark behind the words they begin with alike; no mark in equal ones.

    What stands before the mark is in an element of class sd-alike.
    """
    one, other = _WORDS.findall(_beginning(first)), _WORDS.findall(_beginning(second))
    pairs = zip(one, other, strict=False)
    alike = sum(1 for _ in takewhile(lambda words: words[0].rstrip() == words[1].rstrip(), pairs))
    if alike == len(one) == len(other):
        return escape("".join(one)), escape("".join(other))
    return _marked(one, alike), _marked(other, alike)


def _marked(words: list[str], alike: int) -> Html:
    before, after = escape("".join(words[:alike])), escape("".join(words[alike:]))
    return join(element("span", before, css="sd-alike") if before else Html(""), _MARK, after)


def _beginning(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} …"


FORMULA_STARTS = ("=", "+", "-", "@")
"""A spreadsheet takes a cell that begins like this for a formula."""


def view_csv(left: Record, right: Record, positions: Sequence[int], passages: Passages | None) -> bytes:
    """These passages with both answers, as UTF-8 CSV. Text that a spreadsheet would run begins with an apostrophe."""
    rows = _rows(left, right, positions, passages)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _columns(), quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: spreadsheet_safe(value) for name, value in row.items()})
    return text.getvalue().encode()


def view_parquet(left: Record, right: Record, positions: Sequence[int], passages: Passages | None) -> bytes:
    """As `view_csv`, as parquet; its text is left as it is, since nothing runs it."""
    # Loaded when asked for: the page need not wait for it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = _rows(left, right, positions, passages)
    schema = pa.schema([(name, _arrow_type(kind)) for name, kind in _columns().items()])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return bytes(sink.getvalue().to_pybytes())


def harness_samples(record: Record, passages: Passages) -> bytes:
    """One JSON line for each passage, field by field as lm_eval 0.4.13 writes its samples of `lambada_openai`.

    doc_id, doc (text), target, arguments (gen_args_0: arg_0 the context, arg_1 the target), resps and filtered_resps
    (the log-likelihood and whether the target is what greedy writing gives, as text), filter, metrics, doc_hash,
    prompt_hash, target_hash (sha256), perplexity (a log-likelihood, as there), acc (0 or 1). A test holds one line of a
    real file.
    """
    pairs = zip(record.outcomes, passages.contexts, strict=True)
    lines = [json.dumps(_sample(outcome, context), ensure_ascii=True) for outcome, context in pairs]
    return "".join(f"{line}\n" for line in lines).encode()


def _columns() -> dict[str, type]:
    columns: dict[str, type] = {"index": int, "context": str, "target": str}
    for side in ("left", "right"):
        columns |= {
            f"{side}_answer": str,
            f"{side}_correct": bool,
            f"{side}_log_likelihood": float,
            f"{side}_target_rank": int,
        }
    return columns


def _rows(left: Record, right: Record, positions: Sequence[int], passages: Passages | None) -> list[dict[str, Any]]:
    """target_rank: of the target's first token; 0 where there is none."""
    rows = []
    for i in positions:
        context = passages.contexts[i] if passages else ""
        first = left.outcomes[i]
        row: dict[str, Any] = {"index": first.index, "context": encodable(context), "target": encodable(first.target)}
        for side, outcome in (("left", first), ("right", right.outcomes[i])):
            row[f"{side}_answer"] = encodable(outcome.answer)
            row[f"{side}_correct"] = outcome.last_word_right
            row[f"{side}_log_likelihood"] = outcome.log_likelihood
            row[f"{side}_target_rank"] = outcome.tokens[0].rank if outcome.tokens else 0
        rows.append(row)
    return rows


def spreadsheet_safe(value: object) -> object:
    """The value as it is, or text that a spreadsheet would run with an apostrophe before it."""
    if isinstance(value, str) and value.lstrip().startswith(FORMULA_STARTS):
        return f"'{value}"
    return value


def _arrow_type(kind: type) -> Any:
    import pyarrow as pa

    return {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}[kind]


def _sample(outcome: Outcome, context: str) -> dict[str, Any]:
    context, target = encodable(context), f" {encodable(outcome.target)}"
    doc = {"text": context + target}
    response = [str(outcome.log_likelihood), str(outcome.last_word_right)]
    return {
        "doc_id": outcome.index,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": context, "arg_1": target}},
        "resps": [[response]],
        "filtered_resps": [response],
        "filter": "none",
        "metrics": ["perplexity", "acc"],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(context),
        "target_hash": _hash(target),
        "perplexity": outcome.log_likelihood,
        "acc": int(outcome.last_word_right),
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def table_csv(shown: Table) -> bytes:
    """The table as it is shown, as UTF-8 CSV. Text that a spreadsheet would run begins with an apostrophe."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    for line in (shown.head, *shown.rows):
        lines.writerow([spreadsheet_safe(cell.replace(NBSP, " ")) for cell in line])
    return text.getvalue().encode()


def table_file_name(shown: Table) -> str:
    """The name of that file, of letters that every file can have."""
    return f"sparsedash-{re.sub(r'[^a-z0-9]+', '-', shown.name.lower()).strip('-')}.csv"
