"""Settings of a run, and of a cluster's part of a run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from itertools import product
from math import lcm
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import MAX_SEED, check_settings, setting
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.plain_values import canonical_json, digest, require_whole
from sparsedash.schema.sparse_spec import (
    MAX_HEAL_STEPS,
    ROW_MULTIPLE,
    Quantisation,
    SparseSpec,
)
from sparsedash.schema.stage_versions import STAGE_VERSIONS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


Dtype = Literal["float32", "bfloat16"]
TokenWeights = Literal["equal", "residual"]
Rule = Literal["plain", "published"]
Residency = Literal["auto", "resident", "streamed"]

BUILTIN_MODEL = "builtin:smollm2-135m"
BUILTIN_CLOZE = "builtin:cloze"
BUILTIN_CLOZE_402 = "builtin:cloze-402"
BUILTIN_TEXT = "builtin:smollm2-text"
BUILTIN_MIXED = "builtin:mixed"
SELF = "self"
"""The calibration text that the model itself writes."""

PROMPTS = (
    "The capital of France is Paris. The capital of Italy is",
    "1 + 1 = 2, 2 + 2 = 4, 3 + 3 =",
    "Once upon a time, a little dog",
)
"""What every run lets its models continue by default: the built-in dense model does so
correctly.
"""

DATA_SET = "datasets/"
"""Before the owner/name of a data set of the hub, in `revisions`."""
_COMMIT = re.compile(r"[0-9a-f]{40}")

MAX_SPARSITY_PERMILLE = 900

MIN_TOKENS_PER_CHANNEL = 4
"""Of calibration text, for each inner channel of the widest MLP; fewer are refused."""

_OF_TASKS = ("tasks", "task_limit", "task_shots")
_NAMED_WHERE_SET = {"settings": "quantised_permille", "find": "quantise"}
"""A setting that is part of a request's name only where it is set, by the kind of request."""

PUBLISHED_LONGEST = 197
"""Tokens of the longest passage that the published rule can judge: 196 to read, and the last to
predict.
"""


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Which text the statistics come from, and how much: at most n_samples * length tokens.

    corpus: a text reference (see engine.texts.corpora): a catalog name, `self` or `file:PATH`.
    """

    corpus: str = setting(
        SELF,
        title="calibration text",
        key="calibration",
        flag="--calibration",
        label="Calibration text",
        help="The text that pruning is fitted to. A name from the list, or file:PATH on the server.",
    )
    n_samples: int = setting(
        128,
        title="calibration samples",
        low=1,
        high=100_000,
        key="samples",
        flag="--calibration-samples",
        label="Samples",
        flag_help="samples of calibration text",
    )
    length: int = setting(
        256,
        title="calibration length",
        low=8,
        high=32_768,
        flag="--calibration-length",
        label="Tokens in each",
        flag_help="most tokens of a sample",
    )
    seed: int = setting(
        0,
        high=MAX_SEED,
        flag="--seed",
        label="Seed",
        flag_help="draws the calibration text",
    )
    token_weights: TokenWeights = setting(
        "equal",
        key="weights",
        flag="--token-weights",
        label="Token weights",
        help="residual: by 1 / mean square of the residual stream, so that enormous activations count little.",
    )
    packed: bool = setting(
        False,
        flag="--packed",
        label="Pack the documents into full samples",
        help="They are joined, and cut to samples of full length, as by the published program. Otherwise each document "
        "is a sample of its own, so that all begin as passages do. Running text is always packed.",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Which passages are answered. n_passages None: all. shuffle_seed None: in file order.

    rule: how the last token is judged: see PUBLISHED_LONGEST. stop_early: see stats.anytime.
    tasks: answered beside the passages: built-in ones, names of lm-evaluation-harness, or file:PATH
    of a .yaml file or a folder of such. task_limit None: all. task_shots None: as many as the task says.
    """

    corpus: str = setting(
        BUILTIN_CLOZE,
        title="evaluation text",
        key="text",
        flag="--evaluation",
        label="Passages to evaluate on",
        help="A name from the list, or file:PATH of a .jsonl, .txt or .parquet file on the server.",
    )
    n_passages: int | None = setting(
        None,
        title="passages",
        low=1,
        high=10_000_000,
        key="passages",
        flag="--passages",
        label="How many passages",
        empty="all",
        flag_help="evaluate on the first N only",
    )
    shuffle_seed: int | None = setting(
        None,
        high=MAX_SEED,
        key="shuffle",
        flag="--shuffle-seed",
        label="Shuffle the passages, with seed",
        flag_help="draw the passages with this seed instead of taking the first ones",
        empty="file order",
    )
    rule: Rule = setting(
        "plain",
        flag="--rule",
        label="Rule for the last token",
        help="plain: right when it is the first choice. published: wrong also in passages of more than 197 tokens.",
    )
    stop_early: bool = setting(
        False,
        key="stop",
        flag="--stop-early",
        label="Stop each model once decided",
        help="Ends an evaluation once its difference from dense is certain: fewer passages, less time.",
    )
    tasks: tuple[str, ...] = setting(
        (),
        flag="--tasks",
        label="Questions besides the passages",
        help="Each task has its own verdict: arithmetic and copying are built in, others are lm-evaluation-harness's.",
        flag_help="tasks as well as the passages, with commas between: builtin:arithmetic, builtin:copying, names of "
        "lm-evaluation-harness, or file:PATH of a .yaml file or a folder of them",
    )
    task_limit: int | None = setting(
        None,
        title="questions of a task",
        low=1,
        high=10_000_000,
        key="questions",
        flag="--task-limit",
        label="Questions of each task",
        help="Of a task in parts, of each part.",
        empty="all",
        flag_help="the first N questions of each part of a task only",
    )
    task_shots: int | None = setting(
        None,
        title="examples before a question",
        high=100,
        key="shots",
        flag="--task-shots",
        label="Examples before each question",
        empty="as the task says",
        flag_help="answered examples before each question of a task, instead of the task's own number",
    )

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def about_passages(self) -> dict[str, Any]:
        """The settings that the answers to passages depend on."""
        return {
            name: value for name, value in asdict(self).items() if name not in _OF_TASKS
        }


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """One job: a model, one calibration, and every method at every sparsity beside the dense model.

    methods: where none is named, the plain one of MethodSettings; what the form recommends is
    catalog.presets'.
    heal_steps: of healing where a method removes channels, in turn; 0: a model that is not healed.
    quantise: types that dense and such models are quantised to as well; the widths become multiples
    of what the types need of a row. quantised_permille: sparsities (per mille) of the models that
    are; all where none is named.
    residency: the results are the same, so that it is no part of any key. prompts: no part of those
    of records.
    revisions: commits of what is read from the hub, as of when the run was asked for: by the
    model's reference, and by owner/name of the tasks' data sets after DATA_SET. What is not in it
    is read as the hub has it.
    """

    model: str = setting(
        BUILTIN_MODEL,
        flag="--model",
        label="Model",
        help="A name from the list, any Hugging Face id (also with @revision) or address, a folder or a .gguf file.",
        flag_help="a Hugging Face id OWNER/NAME[@REVISION], a folder, a .gguf file or the built-in model",
    )
    dtype: Dtype = setting(
        "float32",
        flag="--dtype",
        label="Number format",
        help="bfloat16: half the memory; up to 2 in 100 answers change with how passages are batched.",
    )
    methods: tuple[MethodSettings, ...] = field(
        default_factory=lambda: (MethodSettings(),)
    )
    sparsities_permille: tuple[int, ...] = setting(
        (100, 200),
        starts={"form": (20, 100, 300), "time": (200,), "export": (200,)},
        key="sparsity",
        flag="--sparsity",
        label="Share to remove, percent",
        help="One or several, 0 to 90, at most one decimal. One calibration serves them all; some methods reread text.",
        flag_help="share of the budget to remove, percent. One or several, 0 to 90, at most one decimal",
    )
    heal_steps: tuple[int, ...] = (0,)
    quantise: tuple[Quantisation, ...] = ()
    quantised_permille: tuple[int, ...] = ()
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    residency: Residency = setting(
        "auto",
        flag="--residency",
        label="Weights in memory",
        help="auto: all where they fit. streamed: block by block from disk; less memory, same results.",
    )
    prompts: tuple[str, ...] = setting(
        PROMPTS,
        flag="--prompt",
        label="Texts to continue, one per line",
        help="Every model of the run continues them by greedy decoding.",
        flag_help="a text that every model continues; may be given several times (three short ones)",
    )
    revisions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_settings(self)
        self._widen_for_types()
        for name, commit in self.revisions:
            if not is_commit(commit):
                raise SettingsError(
                    f"revision of {name}", commit, "a commit of 40 hexadecimal digits"
                )
        if not self.methods:
            raise SettingsError("methods", (), "at least one")
        if len(set(self.methods)) < len(self.methods):
            raise SettingsError(
                "methods",
                message="A method is named twice.",
                advice="Name each one once.",
            )
        self._check_variants()
        budgets = {method.budget for method in self.methods if method.is_structured}
        if len(budgets) > 1:
            raise SettingsError(
                "budgets", sorted(budgets), "one for all methods of a run"
            )
        if self.quantise and self.dtype != "float32":
            raise SettingsError(
                "number format", self.dtype, "float32 where models are quantised"
            )
        n_sparsities = len(self.sparsities_permille)
        if not 1 <= n_sparsities <= 50:
            raise SettingsError("number of sparsities", n_sparsities, "1 to 50")
        for permille in self.sparsities_permille:
            require_whole("sparsity (per mille)", permille, 0, MAX_SPARSITY_PERMILLE)
        if len(set(self.sparsities_permille)) != n_sparsities:
            raise SettingsError(
                "sparsities", percents_text(self.sparsities_permille), "all different"
            )
        if not set(self.quantised_permille) <= set(self.sparsities_permille):
            allowed = f"some of {percents_text(self.sparsities_permille)}"
            named = percents_text(self.quantised_permille)
            raise SettingsError("quantised sparsities", named, allowed)

    @property
    def model_commit(self) -> str:
        """The commit of its model; empty where none is named."""
        return dict(self.revisions).get(self.model, "")

    @property
    def n_sparse(self) -> int:
        """The number of sparse models."""
        return len(self.points)

    def _widen_for_types(self) -> None:
        """Make the widths multiples of what every quantised type needs of a row."""
        multiple = max((ROW_MULTIPLE.get(kind, 1) for kind in self.quantise), default=1)
        methods = []
        for method in self.methods:
            if multiple > 1 and method.uses("width_multiple"):
                method = replace(
                    method, width_multiple=lcm(method.width_multiple, multiple)
                )
            methods.append(method)
        object.__setattr__(self, "methods", tuple(methods))

    def _check_variants(self) -> None:
        """Raise SettingsError unless some method can be healed and quantised as asked for."""
        for name, values in (
            ("heal steps", self.heal_steps),
            ("quantise", self.quantise),
        ):
            if len(set(values)) < len(values):
                raise SettingsError(name, values, "each named once")
        if not self.heal_steps:
            raise SettingsError("heal steps", (), "at least one number")
        for n_steps in self.heal_steps:
            require_whole("heal steps", n_steps, 0, MAX_HEAL_STEPS)
        if any(method.can_be_healed for method in self.methods):
            return
        for method in self.methods:
            if method.prunes_experts:
                # Its models say why.
                SparseSpec(method, 1, max(self.heal_steps), *self.quantise[:1])
        if any(self.heal_steps):
            steps = f"{max(self.heal_steps)} steps"
            allowed = "off where no method removes channels or layers"
            raise SettingsError("healing", steps, allowed)
        if self.quantise:
            problem = "Only models with fewer channels or layers are quantised."
            advice = "Add such a method, or quantise none."
            raise SettingsError("quantise", message=problem, advice=advice)

    @cached_property
    def points(self) -> tuple[SparseSpec, ...]:
        """Every model beside dense: dense quantised, then method by method at every sparsity.

        A pattern with a fixed sparsity comes once, at that; 0 per mille is dense, and no point.
        """
        specs = [SparseSpec(quantise=kind) for kind in self.quantise]
        for method in self.methods:
            steps = self.heal_steps if method.can_be_healed else (0,)
            kinds: tuple[Quantisation | Literal[""], ...]
            kinds = ("", *self.quantise) if method.can_be_healed else ("",)
            permilles = filter(None, method.sparsities(self.sparsities_permille))
            quantised = set(self.quantised_permille or self.sparsities_permille)
            for n_steps, kind, permille in product(steps, kinds, permilles):
                if not kind or permille in quantised:
                    specs.append(SparseSpec(method, permille, n_steps, kind))
        return tuple(specs)

    def healed(self, n_steps: int) -> "RunSettings":
        """The run with its models healed as well, where channels go. Raises SettingsError."""
        return replace(self, heal_steps=(0, n_steps))

    def of_methods(self, methods: Sequence[MethodSettings]) -> "RunSettings":
        """The run of these methods alone, neither healed nor quantised."""
        return replace(self, methods=tuple(methods), heal_steps=(0,), quantise=())

    @property
    def heals(self) -> bool:
        """Whether any of its models is healed."""
        return any(self.heal_steps)

    @property
    def quantises(self) -> bool:
        """Whether any of its models is quantised."""
        return bool(self.quantise)

    @property
    def names_methods(self) -> bool:
        """Whether its sparse models are called by their methods: by several, and wherever one is
        healed.
        """
        return len(self.methods) > 1 or self.heals

    @property
    def budget(self) -> Budget:
        """The whole of which its sparsities are shares, where channels are removed."""
        return next(
            (method.budget for method in self.methods if method.is_structured),
            "channels",
        )

    @property
    def axis(self) -> Budget:
        """The budget on the x axis of its chart: bytes where models are quantised, since quantising
        removes no channels.
        """
        return "bytes" if self.quantises else self.budget

    @property
    def reads_text(self) -> bool:
        """Whether any of its models depends on the calibration text."""
        return any(spec.reads_text for spec in self.points)

    @property
    def solves(self) -> bool:
        """Whether any of its methods needs full second moments."""
        return any(method.solves for method in self.methods)

    @property
    def point_permilles(self) -> tuple[int, ...]:
        """The sparsities of all points, each once; 0 where the dense model is quantised and nothing
        else.
        """
        permilles = (spec.permille for spec in self.points if spec.method)
        return tuple(dict.fromkeys(permilles)) or (0,)

    def key(self, contents: Mapping[str, str] | None = None) -> str:
        """The name of this request. contents: hashes of the local files that it names, as of
        now.
        """
        return request_key("settings", self, self.evaluation, contents)


def is_commit(revision: str) -> bool:
    """Whether this names one commit of the hub, and not a branch or a tag, which may move."""
    return _COMMIT.fullmatch(revision) is not None


def commit_of(model_identity: str) -> str:
    """The commit in the identity of a model of the hub; empty of any other model."""
    commit = model_identity.rpartition("@")[2]
    return commit if is_commit(commit) else ""


S = TypeVar("S", bound="DataclassInstance")


def settings_from_plain(kind: type[S], plain: object) -> S:
    """The settings of this kind that `dataclasses.asdict` made plain, checked again. Raises
    SettingsError.
    """
    reason = ""
    try:
        settings = msgspec.convert(plain, kind)
        if canonical_json(asdict(settings)) == canonical_json(plain):
            return settings
    except ValueError as error:
        # Of a wrong type or value, or not finite in a field that is not known.
        reason = f": {error}"
    problem = f"These settings were written by another version of SparseDash{reason}."
    raise SettingsError(kind.__name__, message=problem, advice="Ask for it again.")


def request_key(
    kind: str,
    settings: "DataclassInstance",
    evaluation: EvaluationSettings,
    contents: Mapping[str, str] | None,
) -> str:
    """The name of a request of this kind: of its settings, without where the weights are, and of
    every stage's version.

    evaluation: its own. contents: hashes of the local files that it names, as of now.
    """
    values = {
        name: value for name, value in asdict(settings).items() if name != "residency"
    }
    # Requests made before there was this setting keep their names.
    if not values[_NAMED_WHERE_SET[kind]]:
        del values[_NAMED_WHERE_SET[kind]]
    if not evaluation.tasks:
        values["evaluation"] = evaluation.about_passages
    return digest(
        {kind: values, "stamps": dict(contents or {}), "stages": STAGE_VERSIONS}
    )


def percents_text(permilles: tuple[int, ...]) -> str:
    """The text that `parse_percents` reads: "10, 20"."""
    return ", ".join(f"{value / 10:g}" for value in permilles)


def parse_percents(text: str) -> tuple[int, ...]:
    """Per mille from "10,20" or "12.5 30 %". Raises SettingsError on anything finer than a
    tenth.
    """
    permilles = []
    for word in text.replace("%", " ").replace(",", " ").split():
        try:
            permille = 10 * Decimal(word)
            possible = permille % 1 == 0 and 0 <= permille <= MAX_SPARSITY_PERMILLE
        except ArithmeticError:
            possible = False
        if not possible:
            limit = MAX_SPARSITY_PERMILLE // 10
            raise SettingsError("sparsity", word, f"0–{limit} %, at most one decimal")
        permilles.append(int(permille))
    if not permilles:
        raise SettingsError(
            "sparsity", text, "one or several percentages, such as 10, 20"
        )
    return tuple(permilles)


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """A part of a run for one machine of a cluster: some of its sparse models.

    run: the whole run, since the keys of its records may depend on their number. run_key: its name.
    points: places in the run's `points`, from 0, of the part's sparse models.
    """

    run: RunSettings
    run_key: str
    points: tuple[int, ...]

    def __post_init__(self) -> None:
        n_sparse = self.run.n_sparse
        if (
            not self.points
            or len(set(self.points)) != len(self.points)
            or not set(self.points) <= {*range(n_sparse)}
        ):
            raise SettingsError(
                "points",
                self.points,
                f"places of sparse models of this run, 0 to {n_sparse - 1}",
            )

    def key(self) -> str:
        """The name of this part."""
        return digest({"part_of": self.run_key, "points": self.points})
