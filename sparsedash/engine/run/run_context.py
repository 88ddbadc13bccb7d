"""What the functions of one run share: settings, store, log, the dense model and the texts."""

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from math import ceil
from pathlib import Path
from random import Random

import msgspec
import torch

import sparsedash
from sparsedash.catalog.engine_limits import WIDE_BYTES
from sparsedash.catalog.model_shape import dimensions
from sparsedash.catalog.resources import USABLE, is_streamed, least_memory
from sparsedash.engine.evaluation.questions import choose_passages, distinct_passages
from sparsedash.engine.models.checkpoint_reading import n_weights, read_config
from sparsedash.engine.models.loading import (
    LoadedModel,
    ModelShelf,
    Source,
    is_gguf,
    locate_model,
    note_shape,
    stream_model,
)
from sparsedash.engine.models.matmul import widen_once
from sparsedash.engine.texts.corpora import Texts, calibration_sequences, read_texts, story_openings
from sparsedash.engine.texts.generation import generate_texts
from sparsedash.schema import store_keys
from sparsedash.schema.errors import StoreError
from sparsedash.schema.progress import OnStep, Stage, Step
from sparsedash.schema.records import Passages, about_artefact
from sparsedash.schema.settings import BUILTIN_TEXT, SELF, Dtype, RunSettings
from sparsedash.schema.store_keys import (
    NoteName,
    mixed_text_identity,
    own_text_identity,
    text_key,
    unread_text_identity,
)
from sparsedash.storage.local_machine import folder_size, forget_peak_memory, memory_bytes, peak_memory_bytes
from sparsedash.storage.store import StageCheckpoint, Store
from sparsedash.storage.text_files import fingerprint


class RunLog:
    """What one run took, and what a person should know about it.

    folder: the data folder. seconds: spent in each stage. cached: what was read from the store instead of computed.
    warnings: for a person. point: the sparse model that is made or asked, as in Step; set by whoever goes through them.
    walk: how far a walk is in which everything is done at each block, which is told then in place of anything else.
    """

    def __init__(self, on_step: OnStep, folder: Path) -> None:
        self._on_step, self._folder = on_step, folder
        self.point: int | None = None
        self.walk: Step | None = None
        self.seconds: dict[str, float] = {}
        self.cached: list[str] = []
        self.warnings: list[str] = []
        self._stored_before = 0
        self._stage: Stage | None = None
        self._since = 0.0

    def begin(self) -> None:
        """From now on the memory and the disk that are taken count as this run's."""
        forget_peak_memory()
        self._stored_before = folder_size(self._folder).n_bytes

    @property
    def peak_bytes(self) -> int:
        """The most memory that this process has held since the run began, its earlier models' included."""
        return peak_memory_bytes()

    @property
    def disk_bytes(self) -> int:
        """By how much the data folder has grown since the run began; 0 where more was deleted."""
        return max(0, folder_size(self._folder).n_bytes - self._stored_before)

    def on_step(self, step: Step) -> None:
        """Tell how far the work is, and on which sparse model."""
        self._on_step(self.walk or replace(step, point=self.point))

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Add what happens inside to the seconds of a stage; what is timed inside as another counts as that alone."""
        outer = self._enter(stage)
        try:
            yield
        finally:
            self._enter(outer)

    def _enter(self, stage: Stage | None) -> Stage | None:
        """From now on time counts as this stage's; returns whose it was until now."""
        now, before = time.perf_counter(), self._stage
        if before is not None:
            self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._stage, self._since = stage, now
        return before

    def note_cached(self, what: str) -> None:
        """Write down, once, that this was read from the store."""
        if what not in self.cached:
            self.cached.append(what)

    def warn(self, line: str | None) -> None:
        """Write down a line for a person, once; None is no line."""
        if line and line not in self.warnings:
            self.warnings.append(line)


def software_versions() -> dict[str, str]:
    """What numbers can depend on: this program, Python, torch, transformers."""
    return {
        "sparsedash": sparsedash.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


class RunModel:
    """The dense model that a run's settings name."""

    def __init__(self, settings: RunSettings, store: Store, shelf: ModelShelf, run_log: RunLog) -> None:
        self._settings, self._reference = settings, settings.model
        self._store, self._shelf, self._run_log = store, shelf, run_log
        self.dtype = settings.dtype

    @property
    def identity(self) -> str:
        """What tells this model from others; see Source."""
        return self.source.identity

    @property
    def is_first(self) -> bool:
        """Whether this process has held no other model, so that its peak memory is this one's."""
        return self._shelf.n_loaded == 1

    @cached_property
    def source(self) -> Source:
        """The model's files and identity."""
        with self._run_log.timed("load"):
            unpacked = ", which is unpacked the first time" if is_gguf(self._reference) else ""
            finding = f"Finding {self._reference}{unpacked}"
            self._run_log.on_step(Step("load", 0, 1, message=finding))
            found = locate_model(self._reference, self._store)
        self._store.remember(
            store_keys.model_identity_note(self._reference, fingerprint(self._reference)), found.identity
        )
        return found

    @cached_property
    def loaded(self) -> LoadedModel:
        """The dense model in memory."""
        source = self.source
        with self._run_log.timed("load"):
            streamed = self._is_streamed
            by_block = " block by block" if streamed else ""
            self._run_log.on_step(Step("load", 0, 1, message=f"Reading {self._reference}{by_block}"))
            loaded = self._shelf.take(source, self.dtype, self._stream if streamed else None)
            self._run_log.on_step(Step("load", 1, 1))
        if not streamed:
            left = int(USABLE * memory_bytes()) - self._resident_bytes
            widen_once(loaded.model, min(WIDE_BYTES, left))
        note_shape(loaded, self._store)
        self._store.remember(store_keys.model_type_note(source.identity), loaded.model.config.model_type)
        for warning in loaded.warnings:
            self._run_log.warn(warning)
        return loaded

    @property
    def _is_streamed(self) -> bool:
        """Whether the weights stay in their files, as is asked for or as the memory of this machine allows."""
        there = None if torch.cuda.is_available() else memory_bytes()
        return is_streamed(self._settings.residency, self._resident_bytes, there)

    @cached_property
    def _resident_bytes(self) -> int:
        """What the run takes with all weights in memory, at least; of a family that is not counted, the weights."""
        source = self.source
        config = read_config(source.folder, source.reference)
        try:
            return least_memory(dimensions(config.to_dict()), self._settings).n_bytes
        except KeyError:
            itemsize: int = getattr(torch, self.dtype).itemsize
            return n_weights(config, source.reference) * itemsize

    def _stream(self, source: Source, dtype: Dtype) -> LoadedModel:
        return stream_model(source, dtype, self._store)


class RunTexts:
    """The two text sets that a run's settings name."""

    def __init__(self, settings: RunSettings, store: Store, model: RunModel, run_log: RunLog) -> None:
        self._calibration, self._evaluation = settings.calibration, settings.evaluation
        self._reads_text = settings.reads_text
        self._store, self._model, self._run_log = store, model, run_log
        self._sequences: dict[float, list[list[int]]] = {}

    @cached_property
    def passages(self) -> Passages:
        """The passages to answer, kept in the store for the pages."""
        chosen = choose_passages(self._evaluation_texts, self._evaluation)
        self._store.put(chosen.key, chosen)
        return chosen

    @property
    def passages_warnings(self) -> list[str]:
        """Warnings about passages that occur more than once, and about fewer passages than were asked for."""
        asked, n_texts = self._evaluation.n_passages, len(self._evaluation_texts.texts)
        found = len(distinct_passages(self._evaluation_texts))
        warnings = []
        if repeated := n_texts - found:
            warnings.append(f"{repeated:,} of {n_texts:,} passages repeat an earlier one and are left out.")
        if asked is not None and found < asked:
            warnings.append(
                f"The text has {found:,} passages, not the {asked:,} that were asked for; all are answered."
            )
        return warnings

    @property
    def evaluation_identity(self) -> str:
        """What tells this evaluation text from others."""
        return self._evaluation_texts.identity

    def calibration_identity(self, plain_share: float = 0.0) -> str:
        """What tells this calibration text from others.

        Text by the model itself is told by the model and the settings. Where no method depends on the text, what was
        told of it when it was read last is enough; what never was read is not read now.
        plain_share: of the text, how much is plain.
        """
        text = self._own_identity
        return mixed_text_identity(text, self._plain_texts.identity, plain_share) if plain_share else text

    @cached_property
    def _own_identity(self) -> str:
        if self._calibration.corpus == SELF:
            return own_text_identity(self._model.identity, self._model.dtype, self._calibration)
        if self._reads_text:
            return self._calibration_texts.identity
        corpus = self._calibration.corpus
        return self._store.recall(_identity_note(corpus)) or unread_text_identity(corpus)

    def sequences(self, plain_share: float = 0.0) -> list[list[int]]:
        """Token ids of the calibration text, of which a share is plain: as many tokens either way."""
        if plain_share not in self._sequences:
            self._sequences[plain_share] = self._cut(plain_share)
        return self._sequences[plain_share]

    def _cut(self, plain_share: float) -> list[list[int]]:
        asked = self._calibration
        plain: list[list[int]] = []
        if plain_share:
            few = replace(asked, n_samples=max(1, round(plain_share * asked.n_samples)))
            plain = calibration_sequences(self._model.loaded, self._plain_texts, few)
        n_rest = asked.n_samples - ceil(sum(map(len, plain)) / asked.length)
        if n_rest < 1:
            return plain
        is_own = asked.corpus == SELF
        texts = self._written_texts() if is_own else self._calibration_texts
        found = plain + calibration_sequences(self._model.loaded, texts, replace(asked, n_samples=n_rest))
        if plain:
            # What is kept out of the fit, and what is read first, shall be of both.
            Random(asked.seed).shuffle(found)
        return found

    @property
    def expected_lengths(self) -> list[int]:
        """Tokens of each calibration sequence; of text that the model would have to write first, those asked for."""
        if self._calibration.corpus == SELF:
            return [self._calibration.length] * self._calibration.n_samples
        return [len(ids) for ids in self.sequences()]

    @cached_property
    def _calibration_texts(self) -> Texts:
        """Texts that are read from somewhere; not those that the model writes."""
        return self._read(self._calibration.corpus)

    @cached_property
    def _plain_texts(self) -> Texts:
        return self._read(BUILTIN_TEXT)

    @cached_property
    def _evaluation_texts(self) -> Texts:
        return self._read(self._evaluation.corpus)

    def _read(self, reference: str) -> Texts:
        with self._run_log.timed("text"):
            self._run_log.on_step(Step("text", 0, 1, message=f"Reading {reference}"))
            texts = read_texts(reference, self._store.folder)
        self._store.remember(_identity_note(reference), texts.identity)
        return texts

    @property
    def written_text_key(self) -> str:
        """Under which the calibration text by the model itself is kept; empty where it is read from somewhere."""
        asked = self._calibration
        return text_key(self._model.identity, self._model.dtype, asked) if asked.corpus == SELF else ""

    def _written_texts(self) -> Texts:
        """Calibration text by the model itself, kept because writing it takes longer than anything else."""
        key = self.written_text_key
        known = self._store.get_artefact(key)
        if known is None:
            loaded, on_step = self._model.loaded, self._run_log.on_step
            halfway = StageCheckpoint(self._store, self._model.identity)
            made = halfway.numbered(f"{key}/written", _pack_texts, _unpack_texts)
            with self._run_log.timed("text"):
                known = _pack_texts(generate_texts(loaded, story_openings(), self._calibration, on_step, made))
            self._store.put_artefact(key, known, about_artefact("text", self._model.identity))
            halfway.done()
        return Texts(texts=tuple(_unpack_texts(known)), identity=self._own_identity)


def _pack_texts(texts: Sequence[str]) -> bytes:
    return msgspec.json.encode(texts)


def _unpack_texts(data: bytes) -> list[str]:
    try:
        return msgspec.json.decode(data, type=list[str])
    except msgspec.DecodeError as error:
        raise StoreError(f"Stored calibration text cannot be read: {error}.", "Start the run again.") from error


def _identity_note(reference: str) -> NoteName:
    return store_keys.text_identity_note(reference, fingerprint(reference))
