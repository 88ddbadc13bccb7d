"""Context of one run: settings, store, log, the dense model, the texts and their calibrations."""

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from math import ceil
from random import Random

import msgspec
import torch
from torch import Tensor

from sparsedash.catalog.cost_model import is_streamed, least_memory
from sparsedash.catalog.families import is_gguf
from sparsedash.catalog.mixed_text import mixed_identity
from sparsedash.catalog.model_shape import ModelShape, model_shape
from sparsedash.catalog.resources import (
    COMPARED_PASSAGES,
    TOKENS_A_PASSAGE,
    USABLE,
    WIDE_BYTES,
    heal_tokens,
)
from sparsedash.engine.calibration.calibration_cache import Calibration, PassageActivations
from sparsedash.engine.calibration.statistics import reading_stored
from sparsedash.engine.evaluation.divergence import next_token_scores
from sparsedash.engine.evaluation.kind_losses import KindText
from sparsedash.engine.evaluation.questions import choose_passages, distinct_passages, n_leaked
from sparsedash.engine.models.checkpoint_reading import read_config
from sparsedash.engine.models.loading import (
    LoadedModel,
    ModelCache,
    Source,
    locate_model,
    max_length,
    stream_model,
)
from sparsedash.engine.models.matmul import keep_fp32_copies
from sparsedash.engine.tasks.builtin_questions import BuiltinQuestions, load_builtin
from sparsedash.engine.tasks.harness import HarnessTask, load_tasks
from sparsedash.engine.texts.corpora import Texts, calibration_sequences, read_texts, story_openings
from sparsedash.engine.texts.generation import generate_texts
from sparsedash.engine.texts.mixed_sequences import mixed_sequences
from sparsedash.schema import __version__, store_keys
from sparsedash.schema.errors import CorpusError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.progress import OnStep, Stage, Step, begin_parts
from sparsedash.schema.records import Passages, Record, about_artefact
from sparsedash.schema.settings import BUILTIN_MIXED, SELF, CalibrationSettings, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import (
    StopWithin,
    calibration_keys,
    calibration_text_identity,
    curves_key,
    layers_key,
    mix_share,
    outcomes_key,
    text_key,
)
from sparsedash.storage.file_hashes import fingerprint
from sparsedash.storage.local_machine import is_busy, memory_bytes
from sparsedash.storage.store import StageCheckpoint, Store

Task = BuiltinQuestions | HarnessTask

Point = SparseSpec | None
"""A sparse model; None for the dense one."""


@dataclass(eq=False)
class RunLog:
    """Log of one run: seconds of each stage, what was cached, warnings, progress.

    stored_before: bytes of the data folder at the start. point: the sparse model at work, as in
    Step. walk: progress of a single pass, reported instead of any other; calibration moves it
    within `walk_task`, a share of the block. busy: whether the machine was at the end of a stage.
    """

    _on_step: OnStep
    point: int | None = None
    walk: Step | None = None
    walk_task: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    cached: dict[str, None] = field(default_factory=dict)
    warnings: dict[str, None] = field(default_factory=dict)
    stored_before: int = 0
    busy: bool = False
    _stage: Stage | None = None
    _last: Step | None = None
    _since: float = 0.0

    def on_step(self, step: Step) -> None:
        """Report progress, and on which sparse model."""
        shown = replace(step, point=self.point)
        if self.walk is not None:
            # Of the block's calibration; it counts all blocks.
            within = (
                step.share * self.walk.total - self.walk.done if step.stage == "calibrate" else 0.0
            )
            shown = replace(
                self.walk, ahead=self.walk.ahead + min(1.0, max(0.0, within)) * self.walk_task
            )
        self._last = shown
        self._on_step(shown)

    def repeat(self) -> None:
        """Report the last progress again, so that the work can be stopped."""
        if self._last is not None:
            self._on_step(self._last)

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Add the time inside to the seconds of a stage; time of another stage inside counts as
        that alone.
        """
        outer = self._stage
        self._enter(stage)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, stage: Stage | None) -> None:
        """Count time as this stage's from now on."""
        now = time.perf_counter()
        if self._stage is not None:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
            self.busy = self.busy or is_busy()
        self._stage, self._since = stage, now

    def note_cached(self, what: str) -> None:
        """Note, once, that this was read from the store."""
        self.cached |= {what: None}

    def warn(self, line: str | None) -> None:
        """Add a warning, once; None is no warning."""
        self.warnings |= {line: None} if line else {}


def software_versions() -> dict[str, str]:
    """Versions that numbers can depend on: this program, Python, torch, transformers."""
    own = {"sparsedash": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in ("torch", "transformers")}


class RunContext:
    """One run: settings, store, log, and the dense model and the texts, each loaded when first
    asked for.

    answers: keys of the answers to tasks, by the key of the model's record. unanswered: names of
    tasks that a model could not answer. dense: the dense record, once known. made: keys of the
    records made in this run. stop_within: of a search; part of the records' keys. alone: models are
    evaluated one by one. energies: of dense outputs, by statistics key.
    """

    def __init__(
        self, settings: RunSettings, store: Store, on_step: OnStep, model_cache: ModelCache
    ) -> None:
        self.settings, self.store, self.model_cache = settings, store, model_cache
        self._on_step = on_step
        self._located: Source | None = None
        self.log = RunLog(self._report)
        self.dense: Record | None = None
        self.made: set[str] = set()
        self.answers: dict[str, tuple[str, ...]] = {}
        self.unanswered: list[str] = []
        self.stop_within: StopWithin | None = None
        self.warned_of_mismatch = False
        # What is decided early says when the others need not be evaluated.
        self.alone = settings.evaluation.stop_early
        self.energies: dict[str, dict[int, float]] = {}
        self.activations: dict[str, PassageActivations] = {}
        self._calibrations: dict[float, Calibration] = {}
        self._texts: dict[str, Texts] = {}
        self._sequences: dict[float, list[list[int]]] = {}
        # Key of the healed weights of the record that is rebuilt: an earlier version may have made
        # them.
        self.healed_weights = ""
        self._further: dict[tuple[float, int], list[list[int]]] = {}

    def _report(self, step: Step) -> None:
        """Report a step. Raises ModelError where the model's files have changed, before more of it
        is stored.
        """
        if self._located is not None:
            self._located.require_unchanged()
        self._on_step(step)

    @cached_property
    def source(self) -> Source:
        """The model's files and identity."""
        if self.model_cache.given is not None:
            return self.model_cache.given
        reference = self.settings.model
        # Before the files are read: a change while they are read must not be noted under their new
        # stamps.
        note = store_keys.model_identity_note(reference, fingerprint(reference))
        with self.log.timed("load"):
            unpacked = ", which is unpacked the first time" if is_gguf(reference) else ""
            step = Step("load", 0, 1, message=f"Finding {reference}{unpacked}")
            found = locate_model(
                reference,
                self.store,
                begin_parts(step, self.log.on_step),
                self.settings.model_commit,
            )
        self.store.remember(note, found.identity)
        self._located = found
        return found

    @property
    def identity(self) -> str:
        """Identity of the model; see Source."""
        return self.source.identity

    @cached_property
    def shape(self) -> ModelShape:
        """Counts of the dense model."""
        return model_shape(read_config(self.source.folder, self.source.reference).to_dict())

    @cached_property
    def _resident_bytes(self) -> int:
        """Memory that the run needs with all weights resident."""
        return least_memory(self.shape, self.settings).n_bytes

    @cached_property
    def streamed(self) -> bool:
        """Whether the weights stay in their files."""
        available = None if torch.cuda.is_available() else memory_bytes()
        return is_streamed(self.settings.residency, self._resident_bytes, available)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The dense model in memory, or streamed from its files block by block."""
        source, settings, streamed = self.source, self.settings, self.streamed
        with self.log.timed("load"):
            by_block = " block by block" if streamed else ""
            self.log.on_step(Step("load", 0, 1, message=f"Reading {settings.model}{by_block}"))
            stream = partial(stream_model, store=self.store) if streamed else None
            loaded = self.model_cache.take(source, settings.dtype, stream)
            self.log.on_step(Step("load", 1, 1))
        if not streamed:
            keep_fp32_copies(
                loaded.model, min(WIDE_BYTES, int(USABLE * memory_bytes()) - self._resident_bytes)
            )
        self.store.remember(
            store_keys.model_type_note(source.identity), loaded.model.config.model_type
        )
        self.log.warnings |= dict.fromkeys(loaded.warnings)
        return loaded

    @cached_property
    def pruning_checkpoint(self) -> StageCheckpoint:
        """The checkpoint of the sparse models that have not been evaluated yet."""
        return StageCheckpoint(self.store, self.identity)

    def texts(self, reference: str) -> Texts:
        """Texts that are read from somewhere; not those that the model writes."""
        if reference not in self._texts:
            note = _identity_note(reference)
            with self.log.timed("text"):
                self.log.on_step(Step("text", 0, 1, message=f"Reading {reference}"))
                texts = self._texts[reference] = read_texts(reference, self.store.folder)
            self.store.remember(note, texts.identity)
        return self._texts[reference]

    @property
    def evaluation_texts(self) -> Texts:
        """The texts that passages are chosen from."""
        return self.texts(self.settings.evaluation.corpus)

    @cached_property
    def passages(self) -> Passages:
        """The passages to evaluate on, kept in the store for the pages."""
        chosen = choose_passages(self.evaluation_texts, self.settings.evaluation)
        self.store.put(chosen.key, chosen)
        return chosen

    @cached_property
    def tasks(self) -> list[Task]:
        """The tasks that are answered beside the passages. Raises CorpusError for one that cannot
        be.
        """
        asked = self.settings.evaluation
        if not asked.tasks:
            return []
        with self.log.timed("text"):
            self.log.on_step(Step("text", 0, 1, message=f"Preparing {', '.join(asked.tasks)}"))
            builtin, others = load_builtin(asked.tasks, asked.task_limit)
            harness = (
                load_tasks(others, asked.task_limit, asked.task_shots, self.settings.revisions)
                if others
                else []
            )
        found: list[Task] = [*builtin, *harness]
        if twice := [name for name, n in Counter(task.name for task in found).items() if n > 1]:
            raise CorpusError(f"{twice[0]} is named twice.", "Name each task once.")
        most = max_length(read_config(self.source.folder, self.source.reference))
        for task in found:
            if task.n_written >= most:
                raise CorpusError(
                    f"{task.name} asks for {task.n_written:,} written tokens; the model has {most:,}."
                )
        return found

    @cached_property
    def first_passages(self) -> list[list[int]]:
        """Token ids of a few passages, on which predictions are compared token by token."""
        chosen = zip(
            self.passages.contexts[:COMPARED_PASSAGES], self.passages.targets, strict=False
        )
        return [
            self.loaded.tokens(context + target)[: self.loaded.max_length]
            for context, target in chosen
        ]

    @cached_property
    def dense_scores(self) -> list[Tensor]:
        """What the dense model predicts on these. Asked while the loaded model is the dense one."""
        return next_token_scores(self.loaded, self.first_passages)

    @cached_property
    def kind_text(self) -> KindText:
        """Held-out text of every kind. Asked while the loaded model is the dense one."""
        calibration = self.settings.calibration
        n_tokens = (
            calibration.n_samples * calibration.length
            + len(self.passages.indices) * TOKENS_A_PASSAGE
        )
        return KindText(self.loaded, n_tokens)

    def warn_of_passages(self) -> None:
        """Warn of passages that occur more than once, and of fewer passages than were asked for."""
        asked, texts = self.settings.evaluation.n_passages, self.evaluation_texts
        n_texts, found = len(texts.texts), len(distinct_passages(texts))
        if repeated := n_texts - found:
            self.log.warn(
                f"Left out, since they repeat an earlier one: {repeated:,} of {n_texts:,} passages."
            )
        # They are read here in any case: a run made again keeps their texts again.
        if asked is not None and len(self.passages.indices) < asked:
            self.log.warn(
                f"Evaluated: {found:,} of {asked:,} passages, which are all that the text has."
            )

    def made_of(self, point: Point) -> tuple[str, MethodSettings, int] | None:
        """What a sparse model's results depend on beside the model: its statistics' key, its method
        and per mille.

        Where the method reads no text, it depends on none.
        """
        if point is None:
            return None
        method, permille = point
        statistics = self.calibration(method).keys.statistics if method.reads_text else ""
        return statistics, method, permille

    def record_key(self, point: Point) -> str:
        """Key of a model's record."""
        return outcomes_key(
            self.identity,
            self.settings.dtype,
            self.evaluation_texts.identity,
            self.settings.evaluation,
            self.made_of(point),
            n_sparse=self.settings.n_sparse,
            stop_within=self.stop_within,
        )

    def calibration(self, method: MethodSettings) -> Calibration:
        """The calibration on the text that this method reads."""
        settings, share = self.settings, mix_share(method, self.settings.calibration)
        if share not in self._calibrations:
            identity = self.calibration_identity(share)
            self._calibrations[share] = Calibration(
                store=self.store,
                keys=calibration_keys(
                    self.identity, settings.dtype, identity, settings.calibration
                ),
                load=lambda: self.loaded,
                read=lambda: self.sequences(share),
                on_step=self.log.on_step,
                token_weights=settings.calibration.token_weights,
                solves=settings.solves,
            )
        return self._calibrations[share]

    def warn_of_calibration(self, method: MethodSettings) -> None:
        """Warn of passages in a method's calibration text; and of too little text, if it fits
        anything to it.
        """
        calibration, asked = self.calibration(method), self.settings.calibration
        # Each document by itself: packed, a passage may lie across two samples.
        apart = partial(
            self._chosen_sequences, mix_share(method, asked), replace(asked, packed=False)
        )
        self._warn_of_leaks(
            calibration.keys.statistics,
            "calibration text",
            apart if asked.packed else calibration.read,
        )
        if method.needs_statistics or method.in_sequence:
            self.log.warn(
                self.store.recall(store_keys.calibration_warning_note(calibration.keys.statistics))
            )

    def warn_of_healing(self, method: MethodSettings) -> None:
        """Warn of passages in the text that healing reads beside that of the calibration."""
        key, n_tokens = self.calibration(method).keys.statistics, heal_tokens(method.heal_steps)
        self._warn_of_leaks(
            f"{key}-{n_tokens}", "text that healing reads", lambda: self.text_to_heal(method)
        )

    def _warn_of_leaks(self, key: str, what: str, read: Callable[[], list[list[int]]]) -> None:
        """key: of the text."""
        if self.settings.calibration.corpus == SELF:
            return
        note = store_keys.leaked_passages_note(key, self.passages.key)
        found = self.store.recall(note)
        if found is None:
            # What a tokenizer prepends is no word of the text.
            decode = partial(self.loaded.tokenizer.decode, skip_special_tokens=True)
            found = str(n_leaked(self.passages, map(decode, read())))
            self.store.remember(note, found)
        if found != "0":
            self.log.warn(
                f"{int(found):,} of {len(self.passages.indices):,} passages also occur in the {what}: the measured "
                "loss may be too small. Calibrate on other text."
            )

    @property
    def calibration_keys(self) -> list[str]:
        """Store keys of this run's calibrations so far, and of the text that the model wrote."""
        found = {key for own in self._calibrations.values() for key in asdict(own.keys).values()}
        measured = [method for method in self.settings.methods if method.uses("curve_levels")]
        found |= {
            curves_key(self.calibration(method).keys.statistics, method) for method in measured
        }
        layers = [method for method in self.settings.methods if method.takes_layers]
        found |= {layers_key(self.calibration(method).keys.gradients, method) for method in layers}
        return sorted(
            found | ({self._text_key} if self.settings.calibration.corpus == SELF else set())
        )

    @property
    def _text_key(self) -> str:
        return text_key(self.identity, self.settings.dtype, self.settings.calibration)

    def calibration_identity(self, share: float = 0.0) -> str:
        """Identity of the calibration text, with a share of the mix; the last known one where no
        method reads it.
        """
        reads = self.settings.reads_text

        def identity(reference: str) -> str | None:
            if reference == BUILTIN_MIXED:
                return mixed_identity()
            return (
                self.texts(reference).identity
                if reads
                else self.store.recall(_identity_note(reference))
            )

        return calibration_text_identity(self.settings, self.identity, share, identity)

    def sequences(self, share: float = 0.0) -> list[list[int]]:
        """Token ids of the calibration text, of which a share is the mix: as many tokens either
        way.
        """
        if share not in self._sequences:
            found = self._chosen_sequences(share, self.settings.calibration)
            if share or self.settings.calibration.corpus == BUILTIN_MIXED:
                # The held-out sequences, and the first ones, shall be of both.
                Random(self.settings.calibration.seed).shuffle(found)
            self._sequences[share] = found
        return self._sequences[share]

    def text_to_heal(self, method: MethodSettings) -> list[list[int]]:
        """Token ids of the text that was named behind those of the calibration, as far as healing
        needs and finds more.

        Empty where the model writes the calibration text, since writing takes longer than all else,
        and for a method that reads the mix alone.
        """
        asked, share = self.settings.calibration, mix_share(method, self.settings.calibration)
        known = self.sequences(share)
        n_more = ceil(
            (heal_tokens(method.heal_steps) - sum(map(len, known)))
            / min(asked.length, self.loaded.max_length)
        )
        if asked.corpus == SELF or share == 1 or n_more < 1:
            return []
        if (share, n_more) not in self._further:
            self._further[share, n_more] = self._sequences_beyond(known, share, n_more)
        return self._further[share, n_more]

    def _sequences_beyond(
        self, known: Sequence[Sequence[int]], share: float, n_more: int
    ) -> list[list[int]]:
        """So many sequences of the text that was named, or of the mix where that was, which are not
        known.
        """
        asked = self.settings.calibration
        if asked.corpus == BUILTIN_MIXED:
            longer = mixed_sequences(
                self.loaded, replace(asked, n_samples=asked.n_samples + n_more)
            )
            already_read = set(map(tuple, known))
            return [sequence for sequence in longer if tuple(sequence) not in already_read]
        mixed = self._mixed_sequences(share, asked)
        return self._named_sequences(mixed, asked, n_more)[len(known) - len(mixed) :]

    def _chosen_sequences(self, share: float, asked: CalibrationSettings) -> list[list[int]]:
        if asked.corpus == BUILTIN_MIXED:
            return mixed_sequences(self.loaded, asked)
        mixed = self._mixed_sequences(share, asked)
        return mixed + self._named_sequences(mixed, asked)

    def _mixed_sequences(self, share: float, asked: CalibrationSettings) -> list[list[int]]:
        if not share:
            return []
        return mixed_sequences(
            self.loaded, replace(asked, n_samples=max(1, round(share * asked.n_samples)))
        )

    def _named_sequences(
        self, mixed: Sequence[Sequence[int]], asked: CalibrationSettings, n_more: int = 0
    ) -> list[list[int]]:
        """Those of the text that was named, next to those of the mix, and so many more behind
        them.
        """
        length = min(asked.length, self.loaded.max_length)
        n_samples = asked.n_samples - ceil(sum(map(len, mixed)) / length) + n_more
        if n_samples < 1:
            return []
        texts = self._generated_texts() if asked.corpus == SELF else self.texts(asked.corpus)
        return calibration_sequences(self.loaded, texts, replace(asked, n_samples=n_samples))

    def n_sequences(self, method: MethodSettings) -> int:
        """Sequences of the text that a method reads, those of the mix included."""
        asked = self.settings.calibration
        known = (
            self.expected_lengths
            if asked.corpus == SELF
            else self.sequences(mix_share(method, asked))
        )
        return len(known)

    @property
    def expected_lengths(self) -> list[int]:
        """Tokens of each calibration sequence; of text that the model would have to write first,
        those asked for.
        """
        asked = self.settings.calibration
        if asked.corpus == SELF:
            return [min(asked.length, self.loaded.max_length)] * asked.n_samples
        return list(map(len, self.sequences()))

    def _generated_texts(self) -> Texts:
        """Calibration text by the model itself, kept because generating it takes longer than
        anything else.
        """
        key, asked = self._text_key, self.settings.calibration
        known = self.store.get_artefact(key)
        if known is None:
            checkpoint = StageCheckpoint(self.store, self.identity)
            made = checkpoint.numbered(f"{key}/written", msgspec.json.encode, _unpack_texts)
            with self.log.timed("text"):
                texts = generate_texts(self.loaded, story_openings(), asked, self.log.on_step, made)
            known = msgspec.json.encode(texts)
            self.store.put_artefact(key, known, about_artefact("text", self.identity))
            checkpoint.done()
        return Texts(texts=tuple(_unpack_texts(known)), identity=self.calibration_identity())


def _unpack_texts(data: bytes) -> list[str]:
    with reading_stored("calibration text"):
        return msgspec.json.decode(data, type=list[str])


def _identity_note(reference: str) -> store_keys.NoteName:
    return store_keys.text_identity_note(reference, fingerprint(reference))
