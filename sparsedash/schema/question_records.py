"""Sets of answered questions: what one model answered to the questions of one task, whoever asked
them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Annotated, Literal

from msgspec import Meta

from sparsedash.schema.errors import CorpusError
from sparsedash.schema.plain_values import Count, LogLikelihood, NotNegative

QuestionKind = Literal["choice", "generation", "rolling"]
"""choice: the likeliest of given texts, or whether one text is the model's first choice.
generation: text that the model wrote. rolling: the log-likelihood of a document.
"""

Hash = Annotated[str, Meta(min_length=1, max_length=128)]
Length = Annotated[int, Meta(ge=0, le=2**53)]

_UPWARD = frozenset({"acc", "acc_norm", "acc_bytes", "exact_match"})
"""Measures of which more is better wherever no program says which end is."""
_MAX_DIGITS = 6
_LOWEST = -1e9
"""Log-likelihood of a document; below it sums and squares of them end at infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredChoice:
    """A choice and its log-likelihood given the context: natural logarithm, 0 is best."""

    text: str
    log_likelihood: LogLikelihood


@dataclass(frozen=True, kw_only=True, slots=True)
class AnsweredQuestion:
    """One question answered by one model.

    doc_hash, prompt_hash, target_hash: of the document, of what the model read, of the expected
    answer. context: what it read. target: the expected answer, or the number of the right choice.
    right: None of a rolling document; where less of the measure is better, whether it is 0.
    choices: of a choice; one where the question is whether that text is the model's first choice.
    chosen: the place of the one that the measure takes; None where it takes none, or which one is
    not known. text: what the model wrote. answer: what a filter found in it. log_likelihood,
    n_bytes, n_words: of a rolling document. fields: the task's own, for slices. cluster: what it
    shares with other questions, such as the hash of a passage; empty where it stands alone.
    """

    doc_hash: Hash
    prompt_hash: Hash
    target_hash: Hash
    context: str
    target: str
    right: bool | None = None
    choices: tuple[ScoredChoice, ...] = ()
    chosen: Count | None = None
    text: str = ""
    answer: str = ""
    log_likelihood: LogLikelihood | None = None
    n_bytes: Length = 0
    n_words: Length = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""

    def __post_init__(self) -> None:
        likelihoods = [choice.log_likelihood for choice in self.choices]
        if min((*likelihoods, self.log_likelihood or 0.0)) < _LOWEST:
            raise CorpusError(f"A log-likelihood is infinite, or below {_LOWEST:,.0f}.")
        if self.chosen is not None and self.chosen >= len(self.choices):
            raise CorpusError("The choice taken is none of those given.")
        if (self.right is None) != (
            self.log_likelihood is not None and self.n_bytes > 0 and self.n_words > 0
        ):
            raise CorpusError(
                "It is neither right nor wrong, nor a document with its length."
            )

    @property
    def kind(self) -> QuestionKind:
        """The kind of answer."""
        return (
            "rolling"
            if self.right is None
            else "choice"
            if self.choices
            else "generation"
        )

    @property
    def target_place(self) -> int | None:
        """The place of the choice whose number the target is; None where it is none."""
        target = self.target.strip()
        # Longer numbers are no place, and take long to read.
        if (
            not target.isdecimal()
            or len(target) > _MAX_DIGITS
            or int(target) >= len(self.choices)
        ):
            return None
        return int(target)

    @property
    def part(self) -> str:
        """The part of its task; empty where that has none."""
        return self.fields.get("part", "")


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """One model's answers to one task.

    key: where the store keeps it; empty for those of another program. version: of the task, empty
    where unknown.
    measure: by which an answer is right, such as acc_norm, or "bits a byte". higher_is_better:
    which end of the measure is better, by the program that asked; None of documents, and where it
    was not stored. filter: that found the answer in what was written; "none" where there is none.
    points: the task's own limit, in points of accuracy lost, that holds where the tolerance is
    narrower. omitted: numbers of questions of the file that are not among these, by the reason, as
    "with an error".
    """

    model: str
    task: str
    measure: str
    questions: tuple[AnsweredQuestion, ...]
    higher_is_better: bool | None = None
    version: str = ""
    filter: str = "none"
    key: str = ""
    points: NotNegative = 0.0
    omitted: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({question.kind for question in self.questions}) != 1:
            raise CorpusError(
                f"The answers to {self.task} are none, or of several kinds."
            )

    @property
    def kind(self) -> QuestionKind:
        """The kind of answers."""
        return self.questions[0].kind

    @property
    def inverted(self) -> bool:
        """Whether an answer is right where the measure is 0, since lower is better."""
        return self.kind != "rolling" and self.higher_is_better is False

    @property
    def measure_label(self) -> str:
        """The measure in words."""
        return (
            f"{self.measure} (lower is better, inverted)"
            if self.inverted
            else self.measure
        )


@dataclass(frozen=True, kw_only=True)
class ModelAnswers:
    """The answers of one model in opened files. name: of the model, or of its file."""

    name: str
    sets: tuple[QuestionSet, ...]

    @property
    def n_questions(self) -> int:
        """Of all tasks."""
        return sum(len(answers.questions) for answers in self.sets)


def known_direction(task: str, measure: str, higher_is_better: bool | None) -> bool:
    """Whether higher is better. higher_is_better: as stored; None: unknown. Raises CorpusError
    where it stays so.
    """
    if higher_is_better is not None:
        return higher_is_better
    if measure in _UPWARD:
        return True
    raise CorpusError(
        f"Nothing says whether higher or lower is better of {measure}, by which {task} is judged.",
        "`sparsedash judge` reads it in the results_*.json that was written with the answers; or ask the task again.",
    )


def pool_parts(sets: Iterable[QuestionSet]) -> list[QuestionSet]:
    """One set a task, the parts of a task put together.

    Raises CorpusError where they are judged differently, or hold the same document.
    """
    tasks = defaultdict[str, list[QuestionSet]](list)
    for part in sets:
        tasks[part.task].append(part)
    return [parts[0] if len(parts) == 1 else _pool(parts) for parts in tasks.values()]


def can_be_pooled(parts: Sequence[QuestionSet]) -> bool:
    """Whether these sets are parts of one task: two or more without parts of their own, judged
    alike, on different documents.
    """
    documents = set[str]()
    n_documents = 0
    for part in parts:
        hashes = {question.doc_hash for question in part.questions}
        documents |= hashes
        n_documents += len(hashes)
    judged = {
        (part.measure_label, part.filter, part.version, part.kind) for part in parts
    }
    has_parts = any(part.questions[0].part for part in parts)
    return (
        len(parts) > 1
        and len(judged) == 1
        and len(documents) == n_documents
        and not has_parts
    )


def _pool(parts: Sequence[QuestionSet]) -> QuestionSet:
    first = parts[0]
    versions = sorted({part.version for part in parts if part.version})
    alike = {
        "measures": sorted({part.measure_label for part in parts}),
        "filters": sorted({part.filter for part in parts}),
        "versions": versions,
    }
    for what, names in alike.items():
        if len(names) > 1:
            raise CorpusError(
                f"The parts of {first.task} are judged by different {what}: {', '.join(names)}."
            )
    documents = Counter[str]()
    for part in parts:
        documents.update({question.doc_hash for question in part.questions})
    if n := sum(count > 1 for count in documents.values()):
        raise CorpusError(
            f"{n:,} of {len(documents):,} documents of {first.task} are in two files.",
            "Judge one form of a task.",
        )
    questions = tuple(chain.from_iterable(part.questions for part in parts))
    omitted = Counter[str]()
    for part in parts:
        omitted.update(part.omitted)
    version = versions[0] if versions else ""
    return replace(first, questions=questions, version=version, omitted=dict(omitted))
