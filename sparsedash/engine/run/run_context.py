"""Context of one run: settings, store, log, the dense model, the texts and their calibrations."""

import platform
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict
from functools import cached_property, partial
from importlib.metadata import version

import msgspec
import torch
from torch import Tensor

from sparsedash.catalog.cost_model import is_streamed, least_memory
from sparsedash.catalog.export_forms import is_gguf
from sparsedash.catalog.mixed_text import mixed_identity
from sparsedash.catalog.resources import (
    COMPARED_PASSAGES,
    TOKENS_A_PASSAGE,
    USABLE,
    WIDE_BYTES,
    heal_tokens,
)
from sparsedash.engine.calibration.calibration import Calibration
from sparsedash.engine.calibration.passage_activations import PassageActivations
from sparsedash.engine.calibration.statistics import reading_stored
from sparsedash.engine.evaluation.divergence import next_token_scores
from sparsedash.engine.evaluation.kind_losses import KindText
from sparsedash.engine.evaluation.questions import (
    choose_passages,
    distinct_passages,
    n_leaked,
)
from sparsedash.engine.models.loading import LoadedModel, ModelCache
from sparsedash.engine.models.locating import Source, locate_model
from sparsedash.engine.models.matmul import keep_fp32_copies
from sparsedash.engine.models.streaming import stream_model
from sparsedash.engine.run.calibration_texts import CalibrationTexts
from sparsedash.engine.run.run_log import RunLog
from sparsedash.engine.texts.corpora import Texts, read_texts, story_openings
from sparsedash.engine.texts.generation import generate_texts
from sparsedash.schema import __version__, store_keys
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.progress import OnStep, Step, begin_parts
from sparsedash.schema.records import Passages, Record, about_artefact
from sparsedash.schema.run_keys import RunKeys
from sparsedash.schema.settings import SELF, RunSettings
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import StopWithin, curves_key, layers_key, mix_share
from sparsedash.storage.checkpoint import StageCheckpoint
from sparsedash.storage.file_hashes import fingerprint
from sparsedash.storage.local_machine import memory_bytes
from sparsedash.storage.store import Store


def model_label(spec: SparseSpec) -> str:
    """The model in words: "dense", "20 % sparse, Q8_0"."""
    name = f"{spec.permille / 10:g} % sparse" if spec.method else "dense"
    return f"{name}, {spec.weights.upper()}" if spec.is_quantised else name


def software_versions() -> dict[str, str]:
    """Versions that numbers can depend on: this program, Python, torch, transformers."""
    versions = {"sparsedash": __version__, "python": platform.python_version()}
    return versions | {name: version(name) for name in ("torch", "transformers")}


class RunContext:
    """One run: settings, store, log, and the dense model and the texts, each loaded on first use.

    stop_within: of a search's trials; part of their records' keys. healed_weights: key of the
    healed weights of a record that is rebuilt, which an earlier version may have made. together:
    sparse models that this run makes, which may share a walk over the text.
    """

    def __init__(
        self,
        settings: RunSettings,
        store: Store,
        on_step: OnStep,
        model_cache: ModelCache,
        *,
        healed_weights: str = "",
        together: Sequence[SparseSpec] = (),
    ) -> None:
        self.settings = settings
        self.store = store
        self.model_cache = model_cache
        self.log = RunLog(self._report)
        self.stop_within: StopWithin | None = None
        self.healed_weights = healed_weights
        self.together = together
        self._on_step = on_step
        self._located: Source | None = None
        self._new_records: set[str] = set()
        self._energies: dict[str, dict[int, float]] = {}
        self._activations: dict[str, PassageActivations] = {}
        self._calibrations: dict[float, Calibration] = {}
        self._texts: dict[str, Texts] = {}

    def for_trials(self, stop_within: StopWithin) -> "RunContext":
        """The same run, whose sparse models are evaluated until they are within or beyond."""
        trials = copy(self)
        trials.stop_within = stop_within
        return trials

    def _report(self, step: Step) -> None:
        """Report a step. Raises ModelError where the model's files have changed meanwhile."""
        if self._located is not None:
            self._located.require_unchanged()
        self._on_step(step)

    @cached_property
    def source(self) -> Source:
        """The model's files and identity."""
        if self.model_cache.in_memory is not None:
            return self.model_cache.in_memory
        reference = self.settings.model
        # Before the files are read: a change while they are read must not be noted under their new
        # stamps.
        note = store_keys.model_identity_note(reference, fingerprint(reference))
        with self.log.timed("load"):
            unpacked = (
                ", which is unpacked the first time" if is_gguf(reference) else ""
            )
            step = Step("load", 0, 1, message=f"Finding {reference}{unpacked}")
            source = locate_model(
                reference,
                self.store,
                begin_parts(step, self.log.on_step),
                self.settings.model_commit,
            )
        self.store.remember(note, source.identity)
        self._located = source
        return source

    @property
    def identity(self) -> str:
        """Identity of the model; see Source."""
        return self.source.identity

    @property
    def shape(self) -> ModelShape:
        """Counts of the dense model."""
        return self.source.shape

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
        source = self.source
        settings = self.settings
        streamed = self.streamed
        with self.log.timed("load"):
            by_block = " block by block" if streamed else ""
            self.log.on_step(
                Step("load", 0, 1, message=f"Reading {settings.model}{by_block}")
            )
            stream = partial(stream_model, store=self.store) if streamed else None
            loaded = self.model_cache.take(source, settings.dtype, stream)
            self.log.on_step(Step("load", 1, 1))
        if not streamed:
            keep_fp32_copies(
                loaded.model,
                min(WIDE_BYTES, int(USABLE * memory_bytes()) - self._resident_bytes),
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
                texts = self._texts[reference] = read_texts(
                    reference, self.store.folder
                )
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
    def first_passages(self) -> list[list[int]]:
        """Token ids of a few passages, on which predictions are compared token by token."""
        chosen = zip(
            self.passages.contexts[:COMPARED_PASSAGES],
            self.passages.targets,
            strict=False,
        )
        return [
            self.loaded.tokens(context + target)[: self.loaded.max_length]
            for context, target in chosen
        ]

    @cached_property
    def dense_scores(self) -> list[Tensor]:
        """The dense model's predictions on these. Asked while the loaded model is the dense one."""
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
        n_requested = self.settings.evaluation.n_passages
        texts = self.evaluation_texts
        n_texts = len(texts.texts)
        n_distinct = len(distinct_passages(texts))
        if repeated := n_texts - n_distinct:
            self.log.warn(
                f"Left out, since they repeat an earlier one: {repeated:,} of {n_texts:,} passages."
            )
        # They are read here in any case: a run made again keeps their texts again.
        if n_requested is not None and len(self.passages.indices) < n_requested:
            self.log.warn(
                f"Evaluated: {n_distinct:,} of {n_requested:,} passages, which are all that the text has."
            )

    @cached_property
    def keys(self) -> RunKeys:
        """Keys of what this run stores."""
        return RunKeys(
            settings=self.settings,
            model=self.identity,
            text_identity=self._text_identity,
            mix_identity=mixed_identity(),
        )

    def _text_identity(self, reference: str) -> str:
        """Identity of a text; of one that no method reads the last known one."""
        if self.settings.reads_text or reference == self.settings.evaluation.corpus:
            return self.texts(reference).identity
        return self.store.recall(_identity_note(reference)) or f"unread:{reference}"

    def record_key(self, spec: SparseSpec) -> str:
        """Key of a model's record."""
        return self.keys.record(spec, self.stop_within)

    def has_record(self, spec: SparseSpec) -> bool:
        """Whether the model's record is stored."""
        return self.store.has(Record, self.record_key(spec))

    def stored_record(self, spec: SparseSpec) -> Record | None:
        """The model's record from the store; noted as cached unless this run made it."""
        record = self.store.get(Record, self.record_key(spec))
        if record is not None and record.key not in self._new_records:
            # Again: the process may have ended between the record and this.
            protect_healed(record, self.store)
            self.log.note_cached(f"evaluation, {model_label(spec)}")
        return record

    def keep_record(self, record: Record) -> None:
        """Store a new record; its healed weights stay from now on."""
        self.source.require_unchanged()
        self.store.put(record.key, record)
        protect_healed(record, self.store)
        self._new_records.add(record.key)

    def energies(self, calibration: Calibration) -> dict[int, float]:
        """Energies of the dense outputs by block, filled where they are measured first."""
        return self._energies.setdefault(calibration.keys.statistics, {})

    def passage_activations(self, watched: list[list[str]]) -> PassageActivations:
        """Inputs of the watched projections on passages: models that watch the same share them."""
        activations = PassageActivations(
            self.store,
            self.loaded,
            self.passages,
            watched,
            self.log.repeat,
            token_weights=self.settings.calibration.token_weights,
        )
        return self._activations.setdefault(activations.key, activations)

    def calibration(self, spec: SparseSpec) -> Calibration:
        """The calibration on the text that this model reads."""
        settings = self.settings
        share = mix_share(spec, self.settings.calibration)
        if share not in self._calibrations:
            self._calibrations[share] = Calibration(
                store=self.store,
                keys=self.keys.calibration(spec),
                load=lambda: self.loaded,
                read=lambda: self.calibration_texts.sequences(share),
                on_step=self.log.on_step,
                token_weights=settings.calibration.token_weights,
                solves=settings.solves,
            )
        return self._calibrations[share]

    def warn_of_calibration(self, spec: SparseSpec) -> None:
        """Warn of passages in a model's calibration text, and of too little text to fit to."""
        calibration = self.calibration(spec)
        settings = self.settings.calibration
        # Each document by itself: packed, a passage may lie across two samples.
        unpacked = partial(self.calibration_texts.unpacked, mix_share(spec, settings))
        self._warn_of_leaks(
            calibration.keys.statistics,
            "calibration text",
            unpacked if settings.packed else calibration.read,
        )
        if spec.pruning.needs_statistics or spec.pruning.in_sequence:
            self.log.warn(
                self.store.recall(
                    store_keys.calibration_warning_note(calibration.keys.statistics)
                )
            )

    def warn_of_healing(self, spec: SparseSpec) -> None:
        """Warn of passages in the text that healing reads beside that of the calibration."""
        key = self.calibration(spec).keys.statistics
        n_tokens = heal_tokens(spec.heal_steps)
        self._warn_of_leaks(
            f"{key}-{n_tokens}",
            "text that healing reads",
            lambda: self.calibration_texts.to_heal(spec),
        )

    def _warn_of_leaks(
        self, key: str, what: str, read: Callable[[], list[list[int]]]
    ) -> None:
        """key: of the text."""
        if self.settings.calibration.corpus == SELF:
            return
        note = store_keys.leaked_passages_note(key, self.passages.key)
        n_leaks = self.store.recall(note)
        if n_leaks is None:
            # What a tokenizer prepends is no word of the text.
            decode = partial(self.loaded.tokenizer.decode, skip_special_tokens=True)
            n_leaks = str(n_leaked(self.passages, map(decode, read())))
            self.store.remember(note, n_leaks)
        if n_leaks != "0":
            self.log.warn(
                f"{int(n_leaks):,} of {len(self.passages.indices):,} passages also occur in the {what}: the measured "
                "loss may be too small. Calibrate on other text."
            )

    @property
    def calibration_keys(self) -> list[str]:
        """Store keys of this run's calibrations so far, and of the text that the model wrote."""
        keys = set[str]()
        for calibration in self._calibrations.values():
            keys.update(asdict(calibration.keys).values())
        for spec in self.settings.points:
            method = spec.pruning
            if method.uses("curve_levels"):
                keys.add(curves_key(self.calibration(spec).keys.statistics, method))
            if method.removes_layers:
                keys.add(layers_key(self.calibration(spec).keys.gradients, method))
        return sorted(
            keys
            | (
                {self.keys.generated_text}
                if self.settings.calibration.corpus == SELF
                else set()
            )
        )

    @cached_property
    def calibration_texts(self) -> CalibrationTexts:
        """Token ids of the calibration text, and of more for healing."""
        return CalibrationTexts(
            self.settings.calibration, lambda: self.loaded, self._calibration_corpus
        )

    def _calibration_corpus(self) -> Texts:
        corpus = self.settings.calibration.corpus
        return self._generated_texts() if corpus == SELF else self.texts(corpus)

    def _generated_texts(self) -> Texts:
        """Calibration text generated by the model, stored because generating it is slow."""
        key = self.keys.generated_text
        settings = self.settings.calibration
        known = self.store.get_artefact(key)
        if known is None:
            checkpoint = StageCheckpoint(self.store, self.identity)
            numbered = checkpoint.numbered(
                f"{key}/written", msgspec.json.encode, _unpack_texts
            )
            with self.log.timed("text"):
                texts = generate_texts(
                    self.loaded, story_openings(), settings, self.log.on_step, numbered
                )
            known = msgspec.json.encode(texts)
            self.store.put_artefact(key, known, about_artefact("text", self.identity))
            checkpoint.done()
        return Texts(
            texts=tuple(_unpack_texts(known)), identity=self.keys.calibration_text()
        )


def protect_healed(record: Record, store: Store) -> None:
    """Exempt the healed weights that a record refers to from eviction and from the limit."""
    if record.pruned is not None and record.pruned.healed is not None:
        parts = store_keys.healed_part(record.pruned.healed.weights, "")
        store.retag_artefacts(parts, about_artefact("healed", record.model_identity))


def _unpack_texts(data: bytes) -> list[str]:
    with reading_stored("calibration text"):
        return msgspec.json.decode(data, type=list[str])


def _identity_note(reference: str) -> store_keys.NoteName:
    return store_keys.text_identity_note(reference, fingerprint(reference))
