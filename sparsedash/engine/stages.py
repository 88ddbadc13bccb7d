"""The stages of a run, each read from the store where it is known and computed where it is not."""

import json
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version

import sparsedash
from sparsedash.engine.calibration import (
    calibrate,
    calibration_sequences,
    few_tokens_warning,
)
from sparsedash.engine.corpora import Texts, openings, read_texts
from sparsedash.engine.evaluation import choose_passages, evaluate
from sparsedash.engine.evidence import EvidenceGone, KeptEvidence
from sparsedash.engine.generation import sample_texts
from sparsedash.engine.models import LoadedModel, ModelShelf, Source, locate
from sparsedash.engine.pruning.compensation import COMPENSATIONS
from sparsedash.engine.pruning.methods import PrunedModel, measured, prune
from sparsedash.engine.pruning.patterns import matmul_ratio, mlp_sparsity
from sparsedash.engine.pruning.surgery import pruned
from sparsedash.engine.sequential import (
    pack_narrowed,
    refit_sequentially,
    unpack_narrowed,
)
from sparsedash.engine.weights import n_matmul_weights, weights_per_channel
from sparsedash.errors import StoreError
from sparsedash.keys import outcomes_key, pruned_key, statistics_key, text_key
from sparsedash.progress import OnStep, Stage
from sparsedash.records import Passages, Pruned, Record
from sparsedash.settings import MethodSettings, RunSettings
from sparsedash.stamps import stamp
from sparsedash.store import Store

SELF = "self"


class Stages:
    """What one run needs, made when it is first asked for.

    seconds: spent in each stage. cached: what was read from the store instead of computed. warnings: for a person.
    """

    def __init__(
        self, settings: RunSettings, store: Store, on_step: OnStep, shelf: ModelShelf
    ) -> None:
        self._settings, self._store, self._on_step, self._shelf = settings, store, on_step, shelf
        self.seconds: dict[str, float] = {}
        self.cached: list[str] = []
        self.warnings: list[str] = []

    @cached_property
    def source(self) -> Source:
        """The model's files and identity."""
        reference = self._settings.model
        with self._timed("load"):
            self._on_step("load", 0, 1, message=f"Finding {reference}")
            found = locate(reference, self._store)
        self._store.remember(f"identity/{reference}|{stamp(reference)}", found.identity)
        return found

    @cached_property
    def loaded(self) -> LoadedModel:
        """The dense model in memory."""
        with self._timed("load"):
            self._on_step("load", 0, 1, message=f"Reading {self._settings.model}")
            loaded = self._shelf.take(self.source, self._settings.dtype)
            self._on_step("load", 1, 1)
        self.warnings += loaded.warnings
        return loaded

    @cached_property
    def passages(self) -> Passages:
        """The passages to answer, kept in the store for the pages."""
        chosen = choose_passages(self._evaluation_texts, self._settings.evaluation)
        self._store.put(chosen.key, chosen)
        return chosen

    @cached_property
    def calibration_identity(self) -> str:
        """What tells this calibration text from others. Text by the model itself is told by the model and the settings."""
        if self._settings.calibration.corpus == SELF:
            key = text_key(self.source.identity, self._settings.dtype, self._settings.calibration)
            return f"{SELF}:{key}"
        return self._calibration_texts.identity

    @property
    def evaluation_identity(self) -> str:
        """What tells this evaluation text from others."""
        return self._evaluation_texts.identity

    def check(self) -> None:
        """Refuse now what calibration would refuse only after the dense model was evaluated. Raises CalibrationError."""
        settings = self._settings.calibration
        if self._store.recall(f"calibrated/{self._statistics_key}") is not None:
            return
        if settings.corpus == SELF:
            few_tokens_warning(self.loaded, settings.n_samples * settings.length)
        else:
            few_tokens_warning(self.loaded, sum(map(len, self.sequences)))

    def dense_record(self) -> Record:
        """The dense model's answers."""
        key = self._outcomes_key(None)
        return self._known(key, "dense") or self._evaluated(key, None, "dense model")

    def sparse_record(self, method: MethodSettings, permille: int) -> Record:
        """The answers of the model pruned like this."""
        key = self._outcomes_key((self._statistics_key, method, permille))
        label = f"{permille / 10:g} % sparse"
        known = self._known(key, label)
        if known is not None:
            return known
        made = self.prune(method, permille)
        described = self._described(made, method, permille)
        with pruned(self.loaded.mlps, made.narrowed):
            return self._evaluated(key, described, label)

    def prune(self, method: MethodSettings, permille: int) -> PrunedModel:
        """How every MLP is narrowed; calibrates first where the statistics are not there (any more)."""
        for _ in range(2):
            if self._store.recall(f"calibrated/{self._statistics_key}") is None:
                self._calibrate()
            elif "calibrate" not in self.seconds:
                self._note_cached("calibration")
            with self._timed("prune"):
                try:
                    return self._pruned(method, permille)
                except EvidenceGone:
                    self._store.forget(f"calibrated/{self._statistics_key}")
        raise StoreError(
            "The calibration statistics do not fit into the store.",
            "Allow it more room with SPARSEDASH_ARTEFACT_GB.",
        )

    @cached_property
    def _statistics_key(self) -> str:
        calibration = self._settings.calibration
        return statistics_key(
            self.source.identity, self._settings.dtype, self.calibration_identity, calibration
        )

    def _outcomes_key(self, sparse: tuple[str, MethodSettings, int] | None) -> str:
        return outcomes_key(
            self.source.identity,
            self._settings.dtype,
            self.evaluation_identity,
            self._settings.evaluation,
            sparse,
        )

    @cached_property
    def _calibration_texts(self) -> Texts:
        """Texts that are read from somewhere; not those that the model writes."""
        return self._read(self._settings.calibration.corpus)

    @cached_property
    def _evaluation_texts(self) -> Texts:
        return self._read(self._settings.evaluation.corpus)

    def _read(self, reference: str) -> Texts:
        with self._timed("text"):
            self._on_step("text", 0, 1, message=f"Reading {reference}")
            texts = read_texts(reference)
        self._store.remember(f"corpus/{reference}|{stamp(reference)}", texts.identity)
        return texts

    def _written_texts(self) -> Texts:
        """Calibration text by the model itself, kept because writing it takes longer than anything else."""
        settings = self._settings.calibration
        key = text_key(self.source.identity, self._settings.dtype, settings)
        known = self._store.get_artefact(key)
        if known is None:
            with self._timed("text"):
                written = sample_texts(self.loaded, openings(), settings, self._on_step)
            known = json.dumps(written).encode()
            self._store.put_artefact(key, known)
        return Texts(texts=tuple(json.loads(known)), identity=self.calibration_identity)

    @cached_property
    def _kept(self) -> KeptEvidence:
        return KeptEvidence(
            self._store, self._statistics_key, self.loaded, lambda: self.sequences, self._on_step
        )

    @cached_property
    def sequences(self) -> list[list[int]]:
        """Token ids of the calibration text."""
        settings = self._settings.calibration
        texts = self._written_texts() if settings.corpus == SELF else self._calibration_texts
        return calibration_sequences(self.loaded, texts, settings)

    def _calibrate(self) -> None:
        sequences = self.sequences
        warning = few_tokens_warning(self.loaded, sum(map(len, sequences)))
        if warning:
            self.warnings.append(warning)
        with self._timed("calibrate"):
            calibrate(self.loaded, sequences, self._kept.keep_statistics, self._on_step)
        self._store.remember(f"calibrated/{self._statistics_key}", str(len(self.loaded.mlps)))

    def _pruned(self, method: MethodSettings, permille: int) -> PrunedModel:
        mlps, evidence = self.loaded.mlps, self._kept.evidence()
        if permille == 0 or not COMPENSATIONS[method.compensation].sequential:
            return prune(mlps, evidence, method, permille, self._on_pruned)
        key = pruned_key(self._statistics_key, method, permille)
        known = self._store.get_artefact(key)
        if known is None:
            chosen = prune(mlps, evidence, method, permille, self._on_pruned).narrowed
            refitted = refit_sequentially(
                self.loaded, self.sequences, chosen, method.damping, method.strength, self._on_step
            )
            known = pack_narrowed(refitted)
            self._store.put_artefact(key, known)
        return measured(mlps, evidence, unpack_narrowed(known))

    def _on_pruned(self, done: int, total: int) -> None:
        self._on_step("prune", done, total, unit="blocks")

    def _described(self, made: PrunedModel, method: MethodSettings, permille: int) -> Pruned:
        """How the model is made and what is gone; asked while it is still the dense one."""
        mlps = self.loaded.mlps
        dense_widths = [mlp.width for mlp in mlps]
        per_channel = [weights_per_channel(mlp) for mlp in mlps]
        total = n_matmul_weights(self.loaded.model)
        return Pruned(
            method=method,
            calibration=self._settings.calibration,
            sparsity_permille=permille,
            widths=tuple(made.widths),
            dense_widths=tuple(dense_widths),
            mlp_sparsity=mlp_sparsity(dense_widths, made.widths),
            matmul_ratio=matmul_ratio(dense_widths, made.widths, per_channel, total),
            layer_errors=tuple(made.layer_errors),
            held_out_errors=tuple(made.held_out_errors),
        )

    def _known(self, key: str, label: str) -> Record | None:
        record = self._store.get(Record, key)
        if record is not None:
            self._note_cached(f"evaluation, {label}")
        return record

    def _evaluated(self, key: str, made: Pruned | None, label: str) -> Record:
        loaded = self.loaded
        with self._timed("evaluate"):
            evaluated = evaluate(
                loaded, self.passages, self._on_step, label, self._settings.evaluation.rule
            )
        speed = evaluated.n_tokens / evaluated.seconds
        record = Record(
            key=key,
            model=self._settings.model,
            model_identity=self.source.identity,
            dtype=self._settings.dtype,
            corpus=self._settings.evaluation.corpus,
            corpus_identity=self.evaluation_identity,
            passages_key=self.passages.key,
            pruned=made,
            outcomes=evaluated.outcomes,
            seconds=evaluated.seconds,
            tokens_per_second=speed,
            rule=self._settings.evaluation.rule,
        )
        self._store.put(key, record)
        name = f"{self._settings.model}/{self._settings.dtype}"
        self._store.remember(f"speed/{name}", f"{speed:.1f}")
        if self._shelf.n_loaded == 1:
            self._store.remember(f"memory/{name}", str(_peak_memory_bytes()))
        return record

    def _note_cached(self, what: str) -> None:
        if what not in self.cached:
            self.cached.append(what)

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - started


def versions() -> dict[str, str]:
    """What numbers can depend on: this program, Python, torch, transformers."""
    return {
        "sparsedash": sparsedash.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, Linux in kilobytes.
    return peak if sys.platform == "darwin" else peak * 1024
