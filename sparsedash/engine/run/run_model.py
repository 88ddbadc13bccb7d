"""The dense model of a run, found at once and loaded only where something must be computed."""

from functools import cached_property

import torch

from sparsedash.catalog.dimensions import dimensions
from sparsedash.catalog.engine_limits import WIDE_BYTES
from sparsedash.catalog.memory import USABLE, is_streamed, least_memory
from sparsedash.engine.models.checkpoint import n_weights, read_config
from sparsedash.engine.models.loading import LoadedModel, ModelShelf, Source, is_gguf, locate
from sparsedash.engine.models.model_shape import note_shape
from sparsedash.engine.models.products import widen_once
from sparsedash.engine.models.streaming import stream
from sparsedash.engine.run.run_log import RunLog
from sparsedash.schema import notes
from sparsedash.schema.progress import Step
from sparsedash.schema.settings import Dtype, RunSettings
from sparsedash.storage.fingerprints import fingerprint
from sparsedash.storage.machine import memory_bytes
from sparsedash.storage.store import Store


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
            found = locate(self._reference, self._store)
        self._store.remember(notes.model_identity(self._reference, fingerprint(self._reference)), found.identity)
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
        self._store.remember(notes.model_type(source.identity), loaded.model.config.model_type)
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
        return stream(source, dtype, self._store)
