"""Results: frozen records, and their plain form for the store, the shell and the pages.

One record is one model's answers to one set of passages. The dense model's record is the one
without pruning.
"""

import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from math import exp, inf, log
from typing import Annotated, Literal, TypeVar, get_args

import msgspec

from sparsedash.schema.divergence_records import DivergenceFigures
from sparsedash.schema.errors import SparseDashError, StoreError
from sparsedash.schema.export_settings import Export
from sparsedash.schema.find_settings import FindResult, FindSettings
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.model_shape import KeptParts
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    Timing,
)
from sparsedash.schema.plain_values import (
    Count,
    LogLikelihood,
    NotNegative,
    Share,
    digest,
)
from sparsedash.schema.question_records import QuestionSet
from sparsedash.schema.settings import CalibrationSettings, Dtype, Rule, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.user_records import Choices, OwnPrompts, Prompts, RunMarks

ArtefactKind = Literal[
    "statistics",
    "inputs",
    "gradients",
    "curves",
    "activations",
    "scores",
    "text",
    "weights",
    "healed",
    "answers",
    "unfinished",
]
"""Kinds of artefacts. inputs: statistics of all projections' inputs. text: written by a model.
weights: made in sequence. healed: weights made by healing that a record refers to, never evicted.
answers: of other programs.
unfinished: checkpoints of stages.
"""


def about_artefact(kind: ArtefactKind, model_identity: str) -> str:
    """Tag of an artefact: its kind, a space, its model."""
    return f"{kind} {model_identity}"


@dataclass(frozen=True, kw_only=True)
class VerifySettings:
    """A request to read everything that carries a checksum."""

    def key(self) -> str:
        """The name of the request and of its result."""
        return digest({"verify": asdict(self)})


Checked = Literal["record", "artefact", "unpacked model", "upload", "export"]
"""Kinds of things with a checksum: entries of the two caches, and files."""

MAX_NAMED = 500


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A damaged thing. name: in the data folder. what: its fault, in words.

    entry: for one of many files, the name of the whole: the model's folder, the export's key.
    """

    kind: Checked
    name: str
    what: str
    entry: str = ""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of the last complete verification.

    n_checked: by kind. damaged: the first MAX_NAMED of n_damaged. Times are seconds since the
    epoch.
    """

    key: str
    started_at: float
    finished_at: float
    n_checked: dict[str, int]
    n_bytes: int
    damaged: tuple[Damage, ...]
    n_damaged: int


MAX_LOSS = log(sys.float_info.max)
"""Nats a word, about 709: e to the power of more is no float."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetToken:
    """One token of the target. rank: 1 when it is the model's first choice."""

    text: str
    log_likelihood: LogLikelihood
    rank: Annotated[int, msgspec.Meta(ge=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One of the model's first choices for the token after the context."""

    text: str
    probability: Share


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One passage answered by one model.

    index: position in the corpus, from 0. target: the last word. answer: the word the model writes
    instead.
    log_likelihood: natural logarithm, of the whole target word given the context; 0 is best.
    last_word_right: every target token is the first choice. last_token_right: the last of them is.
    """

    index: Count
    target: str
    answer: str
    last_word_right: bool
    last_token_right: bool
    log_likelihood: LogLikelihood
    tokens: tuple[TargetToken, ...]
    top: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """right of total passages."""

    right: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.right / self.total


@dataclass(frozen=True, kw_only=True)
class Reached:
    """Shares of a model that are gone, one for each budget: see catalog.budgets.

    Where single weights go: zeros / weights of the MLPs, of the blocks, and of all Linear and Conv
    layers; no bytes. channels: where whole layers or experts go, of these.
    """

    channels: Share
    weights: Share
    bytes: Share
    macs: Share
    kv_cache: Share = 0.0

    def __getitem__(self, budget: Budget) -> float:
        """The share of this budget."""
        share: float = getattr(self, budget.replace("-", "_"))
        return share


@dataclass(frozen=True, kw_only=True)
class Healed:
    """Result of healing a sparse model.

    steps: trained. kept_step: after which the weights are those kept; 0: none was better, and they
    are as before.
    before, after: mean KL divergence of its next token from the dense model's on held-out
    calibration text, in nats.
    n_tokens: of that text. weights: key of the artefacts that hold the weights.
    """

    steps: Count
    kept_step: Count
    before: NotNegative
    after: NotNegative
    n_tokens: Count
    weights: str

    def __post_init__(self) -> None:
        if self.kept_step > self.steps or self.after > self.before:
            raise StoreError(
                "The stored figures of healing contradict each other.",
                "Heal the model again.",
            )


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """The file that a model's weights were read back from, which is gone.

    n_bytes: of its tensors; full_bytes, dense_bytes: of the same model's and of dense's in 16 bits.
    tensors: how many have which type; fell_back: of these, by the length of their rows. quantiser:
    version of the binding of llama.cpp.
    divergence: mean KL divergence of the next token from the dense model's on n_tokens of the
    passages, in nats.
    """

    n_bytes: Count
    full_bytes: Count
    dense_bytes: Count
    tensors: dict[str, Count]
    fell_back: dict[str, Count]
    quantiser: str = ""
    divergence: NotNegative = 0.0
    n_tokens: Count = 0


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """Recipe of a sparse model, enough to rebuild it, and the shares removed.

    reached: what is gone, of every budget.
    widths: kept inner channels of each block's MLP, 0 where it has none or the whole layer is gone;
    dense_widths: before pruning. removed_layers: those that are gone, at least all whose MLP keeps
    no channel. experts: numbers of the kept ones of each block; empty where none is removed.
    expert_widths: kept inner channels of each expert, by block; empty where none is removed.
    dense_expert_widths: before pruning; empty with them.
    expert_use: share of the dense router's choices on calibration text that went to each expert, by
    block. few_tokens: experts that saw too few tokens to be refitted.
    layer_errors: share of each block's MLP output that is lost, on calibration text, where single
    weights go that of its projections' outputs, averaged; empty where the method takes no
    statistics of text, or it was too little for whole second moments. held_out_errors: on text kept
    out of the fit; empty when there was too little to keep any out. uncompensated_errors: on
    calibration text, had the kept weights stayed as they are. passage_errors: on a few passages of
    the evaluation. alone: what the model loses by the cut of each block alone, by its curve, as KL
    divergence of the next token in nats; empty where the method measures no curves. healed,
    quantised: None where it was not; the errors of such a model are those before.
    calibration_identity: of the text that was read; empty where none was, or an earlier version
    made the record.
    """

    spec: SparseSpec
    calibration: CalibrationSettings
    widths: tuple[Count, ...]
    dense_widths: tuple[Count, ...]
    reached: Reached
    layer_errors: tuple[NotNegative, ...]
    held_out_errors: tuple[NotNegative, ...]
    uncompensated_errors: tuple[NotNegative, ...] = ()
    passage_errors: tuple[NotNegative, ...] = ()
    alone: tuple[NotNegative, ...] = ()
    removed_layers: tuple[Count, ...] = ()
    experts: tuple[tuple[Count, ...], ...] = ()
    expert_widths: tuple[Count, ...] = ()
    dense_expert_widths: tuple[Count, ...] = ()
    expert_use: tuple[tuple[Share, ...], ...] = ()
    few_tokens: Count = 0
    healed: Healed | None = None
    quantised: Quantised | None = None
    calibration_identity: str = ""

    def __post_init__(self) -> None:
        n_layers = len(self.widths)
        measured = (
            self.layer_errors,
            self.held_out_errors,
            self.uncompensated_errors,
            self.passage_errors,
            self.alone,
            self.experts,
            self.expert_widths,
            self.expert_use,
        )
        is_consistent = all(len(values) in (0, n_layers) for values in measured)
        has_both = len(self.expert_widths) == len(self.dense_expert_widths)
        if (
            not is_consistent
            or not has_both
            or not len(self.dense_widths) == n_layers > 0
        ):
            raise StoreError("Its layers do not belong together.")
        if not self.removed_layers:
            pairs = enumerate(zip(self.widths, self.dense_widths, strict=True))
            gone = tuple(index for index, (kept, dense) in pairs if dense and not kept)
            object.__setattr__(self, "removed_layers", gone)
        if any(not 0 <= index < n_layers for index in self.removed_layers):
            raise StoreError("Its layers do not belong together.")
        if any(
            kept > dense
            for kept, dense in zip(self.widths, self.dense_widths, strict=True)
        ):
            raise StoreError("It keeps more channels than the dense model has.")

    @property
    def method(self) -> MethodSettings:
        """The choices of pruning; of dense quantised those that remove nothing."""
        return self.spec.pruning

    @property
    def sparsity_permille(self) -> int:
        """Asked-for share of the method's budget, per mille."""
        return self.spec.permille

    @property
    def kept(self) -> KeptParts:
        """Parts kept of the dense model."""
        return KeptParts(
            widths=self.widths,
            removed_layers=self.removed_layers,
            experts=tuple(map(len, self.experts)),
            expert_widths=self.expert_widths,
        )

    @property
    def kept_of_dense(self) -> tuple[tuple[int, int], ...]:
        """How much of how much each layer keeps: channels of its MLP, or experts or channels of
        each expert where those are removed; 0 of 0 where it has none.
        """
        if self.method.removes_experts:
            pairs = zip(self.experts, self.expert_use, strict=True)
            return tuple((len(kept), len(use)) for kept, use in pairs)
        if self.expert_widths:
            return tuple(zip(self.expert_widths, self.dense_expert_widths, strict=True))
        return tuple(zip(self.widths, self.dense_widths, strict=True))

    @property
    def lost_without(self) -> tuple[float, ...]:
        """The uncompensated errors; empty without compensation, where they would be the same."""
        return () if self.method.compensation == "none" else self.uncompensated_errors


Decision = Literal["difference", "close", "within", "beyond", "open"]
"""Result of a sequential test: a difference; hardly any; a loss within or beyond the tolerance; or
undecided.
"""


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """End of an evaluation that was to stop as soon as the paired difference to dense is
    decided.

    n_answered of n_passages that were asked for. p_value: of a difference to dense, valid although
    it was looked at while it grew. interval: 95 %, of that difference, likewise. margin: the
    largest difference that is called close. n_comparisons: sparse records of the run, over which a
    difference must stay shown; of a search, how many there can be. alpha: the chance of error that
    a search set aside for this look, before it saw anything, on both measures together; None where
    it was looked at after any passage.
    """

    decision: Decision
    n_answered: Count
    n_passages: Count
    p_value: Share
    interval: tuple[float, float]
    margin: Share
    n_comparisons: Count
    alpha: Share | None = None


@dataclass(frozen=True, kw_only=True)
class KindLoss:
    """KL from dense on held-out text of one kind, a source of the built-in mix. blocks: means of
    its pieces, nats.
    """

    kind: str
    blocks: tuple[NotNegative, ...]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One model's answers to one set of passages.

    key: where the store keeps it. pruned: None for the dense model. passages_key: where the texts
    are.
    outcomes: in corpus order. tokens_per_second: of the evaluation. rule: how the last token was
    judged.
    stopping: None where every passage was to be answered. words_cut: of each passage longer than
    the model's context, the words at its beginning that were dropped. by_kind: what a sparse model
    lost of each kind of text; empty where that was not measured. divergence: from dense, over the
    text of all kinds; None where that was not measured.
    """

    key: str
    model: str
    model_identity: str
    dtype: Dtype
    corpus: str
    corpus_identity: str
    passages_key: str
    pruned: Pruned | None
    outcomes: tuple[Outcome, ...]
    seconds: NotNegative
    tokens_per_second: NotNegative
    rule: Rule = "plain"
    stopping: Stopping | None = None
    words_cut: tuple[int, ...] = ()
    by_kind: tuple[KindLoss, ...] = ()
    divergence: DivergenceFigures | None = None

    def __post_init__(self) -> None:
        if not self.outcomes:
            raise StoreError("It holds no answers.")
        if len({outcome.index for outcome in self.outcomes}) < len(self.outcomes):
            raise StoreError("It answers a passage twice.")

    @cached_property
    def last_word(self) -> Score:
        """Passages whose whole last word was right."""
        return Score(
            right=sum(o.last_word_right for o in self.outcomes),
            total=len(self.outcomes),
        )

    @cached_property
    def last_token(self) -> Score:
        """Passages whose last token was right."""
        return Score(
            right=sum(o.last_token_right for o in self.outcomes),
            total=len(self.outcomes),
        )

    @cached_property
    def word_perplexity(self) -> float:
        """exp of the mean negative log-likelihood of the target word; 1 is best, infinity where a
        float ends.
        """
        loss = -sum(o.log_likelihood for o in self.outcomes) / len(self.outcomes)
        return exp(loss) if loss < MAX_LOSS else inf

    @property
    def sparsity_permille(self) -> int:
        """Asked-for share of the method's budget, per mille; 0 for the dense model."""
        return self.pruned.sparsity_permille if self.pruned else 0


RESUMED = "work of an earlier attempt"
"""What a run notes where an earlier attempt was broken off, whose work took none of its seconds."""

TASKS_CACHED = "answers to tasks"
"""What a run notes as read from the store where a model had answered a task before."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One request and where its results are; rewritten as each record is done.

    dense, sparse: record keys; sparse in the order of the settings' points, shorter while it runs.
    seconds: per stage, of the attempt that finished it; a stage read from the store has taken what
    reading took.
    cached: the stages that were read from the store instead of computed.
    made_on: the machine on which a run that ships with the program was made; empty for one made
    here.
    find: of a search, what it was asked for; its trials are the sparsities of the settings, which
    grow with it.
    peak_bytes, disk_bytes: the most memory that the attempt that finished it has held, and what it
    left in the data folder; None where that was not measured.
    source_type: of a model that was unpacked from a quantised GGUF file, the type of that file, as
    Q4_1; else empty.
    answers: keys of each model's answers to the run's tasks, by the key of its record. unanswered:
    names of the tasks that a model could not answer.
    busy: whether other work slowed the machine down, so that the seconds tell nothing.
    """

    key: str
    settings: RunSettings
    model_identity: str
    corpora: dict[str, str]
    dense: str
    sparse: tuple[str, ...]
    finished: bool
    started_at: NotNegative
    finished_at: NotNegative | None
    seconds: dict[str, NotNegative]
    cached: tuple[str, ...]
    warnings: tuple[str, ...]
    versions: dict[str, str]
    made_on: str = ""
    find: FindSettings | None = None
    peak_bytes: Count | None = None
    disk_bytes: Count | None = None
    source_type: str = ""
    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unanswered: tuple[str, ...] = ()
    busy: bool = False

    @property
    def records(self) -> tuple[str, ...]:
        """Keys of the records that are there, the dense one first."""
        return tuple(key for key in (self.dense, *self.sparse) if key)

    @cached_property
    def continuations(self) -> Mapping[str, str]:
        """The record of every continuation of the run's prompts, by the key of the continuation,
        there or not.
        """
        records = {}
        for record, prompt in product(self.records, self.settings.prompts):
            request = ContinuationSettings(left=record, right=record, prompt=prompt)
            records[request.key()] = record
        return records

    @property
    def n_compared(self) -> int:
        """Sparse models that are judged together, those to come and lost ones included; 0 in a
        search: each by itself.

        Not only those so far: their number may depend on what the first ones have shown.
        """
        return (
            0
            if self.find is not None
            else max(len(set(self.sparse)), self.settings.n_sparse)
        )


@dataclass(frozen=True, kw_only=True)
class Passages:
    """The texts of a record's outcomes. context ends before the target; index as in Outcome."""

    key: str
    indices: tuple[Count, ...]
    contexts: tuple[str, ...]
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.indices) == len(self.contexts) == len(self.targets):
            raise StoreError("Its texts do not belong together.")
        if len(set(self.indices)) < len(self.indices):
            raise StoreError("It holds a passage twice.")


Kept = (
    Record
    | Run
    | FindResult
    | Passages
    | QuestionSet
    | Continuation
    | Divergence
    | Prompts
    | OwnPrompts
    | Choices
    | RunMarks
    | Timing
    | Export
    | Verification
)
"""Everything that the store keeps as a record."""

R = TypeVar("R", bound=Kept)

KINDS: dict[str, type[Kept]] = {kind.__name__.lower(): kind for kind in get_args(Kept)}
"""The kinds by their names in the store and in files."""


def to_json(record: Kept) -> str:
    """The record as JSON. Raises StoreError for a number that is not finite, or out of range."""
    text = msgspec.json.encode(record).decode()
    try:
        # JSON writes NaN and infinity as null: without this they would be noticed on reading only.
        msgspec.json.decode(text, type=type(record))
    except msgspec.ValidationError as error:
        kind = type(record).__name__.lower()
        raise StoreError(
            f"This {kind} cannot be kept: a number is not finite or out of range: {error}"
        ) from error
    return text


def to_line(record: Kept) -> str:
    """The record as a line of a file: its kind, a space, its JSON."""
    return f"{type(record).__name__.lower()} {to_json(record)}\n"


def from_lines(lines: str, kinds: Collection[type[R]]) -> Iterator[R]:
    """The records of lines of `to_line`, in order. Raises StoreError on anything else, and on other
    kinds.
    """
    known = {kind.__name__.lower(): kind for kind in kinds}
    # Not splitlines: what it takes for the end of a line stands in JSON as well.
    for line in filter(None, lines.split("\n")):
        name, _, text = line.partition(" ")
        if name not in known:
            raise StoreError("It holds what does not belong into it.")
        yield from_json(known[name], text)


def from_json(kind: type[R], text: str) -> R:
    """The record of a text of `to_json`, every type checked. Raises StoreError on anything else."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, SparseDashError, RecursionError) as error:
        raise StoreError(
            f"A stored {kind.__name__.lower()} cannot be read: {error}"
        ) from error
