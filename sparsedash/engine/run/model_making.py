"""Sparse models of a run are made from the dense one and its calibration, measured, healed,
quantised, and rebuilt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import msgspec

from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.catalog.resources import MORE_ROOM
from sparsedash.engine.calibration.calibration_cache import (
    CacheEvicted,
    Calibration,
    PassageActivations,
)
from sparsedash.engine.calibration.statistics import pack_tensors, reading_stored, unpacked
from sparsedash.engine.evaluation.divergence import mean_divergence, next_token_scores
from sparsedash.engine.healing.healing import HealingCheckpoint, heal
from sparsedash.engine.models.gguf_making import gguf_of
from sparsedash.engine.models.gguf_quantising import read_back, write_quantised
from sparsedash.engine.models.gguf_writing import dense_bytes
from sparsedash.engine.models.loading import LoadedModel, ModelCache, Source
from sparsedash.engine.models.matmul import bf16_matmul_in_fp32
from sparsedash.engine.models.sparse_models import PrunedChannels, SparseModel
from sparsedash.engine.pruning.layer import LazySequence
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.run.sparse_blocks import pack_narrowed, sparse_model, unpack_narrowed
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.export_settings import EXPORTS
from sparsedash.schema.method_settings import MethodSettings, Quantisation
from sparsedash.schema.progress import OnStep, Step, begin_parts
from sparsedash.schema.records import Healed, Pruned, Quantised, Record, about_artefact
from sparsedash.schema.settings import RunSettings, commit_of
from sparsedash.schema.store_keys import healed_part, mix_share, pruned_key, quantiser_version
from sparsedash.storage.model_folders import require_export_room, swept_folder
from sparsedash.storage.store import StageCheckpoint, Store


class MeasuredModel:
    """A sparse model and its errors, made block by block while the loaded model is the dense
    one.
    """

    def __init__(self, run: RunContext, method: MethodSettings, permille: int) -> None:
        self._run, self._method, self._permille = run, method, permille
        self.model = sparse_model(run, method.unquantised, permille)
        self._passage_errors = LazySequence(len(self.model.errors), self._passage_error)

    def measure(self, index: int) -> None:
        """Make this block, and measure its errors on calibration text and on passages; round it
        afterwards.
        """
        _ = self.model.blocks[index]
        _ = self.model.errors[index], self._passage_errors[index]
        self.model.round_(index)

    @cached_property
    def described(self) -> Pruned:
        """The record's part on pruning."""
        fitted, uncompensated, held_out = (
            tuple(error for error in kind if error is not None)
            for kind in zip(*self.model.errors, strict=True)
        )
        known = [error for error in self._passage_errors if error is not None]
        return Pruned(
            method=self._method,
            calibration=self._run.settings.calibration,
            sparsity_permille=self._permille,
            widths=tuple(self.model.widths),
            dense_widths=tuple(mlp.width for mlp in self._run.loaded.mlps),
            reached=self.model.reached(),
            layer_errors=fitted,
            held_out_errors=held_out,
            uncompensated_errors=uncompensated,
            passage_errors=tuple(known) if len(known) == len(self._passage_errors) else (),
            alone=tuple(self.model.alone()),
            healed=self.model.healed if isinstance(self.model, PrunedChannels) else None,
            quantised=self._quantised_figures,
            calibration_identity=_text_identity(self._run, self._method),
        )

    def finish(self) -> None:
        """Heal and quantise the model, all of whose blocks are made, where its method does.

        Healed weights are from the store where they are known; a quantised file is made anew.
        """
        if not isinstance(self.model, PrunedChannels):
            return
        if self._method.heal_steps and self._permille:
            self.model = _heal(self._run, self._method.unquantised, self._permille, self.model)
        if self._method.quantise:
            with self._run.log.timed("quantise"):
                self.model = _quantise(self._run, self._method.quantise, self.model)

    @cached_property
    def _quantised_figures(self) -> Quantised | None:
        """The model's, with its divergence from the dense model."""
        found = self.model.quantised if isinstance(self.model, PrunedChannels) else None
        if found is None:
            return None
        dense, loaded = self._run.dense_scores, self._run.loaded
        with self._run.log.timed("quantise"), self.model.applied():
            own = next_token_scores(loaded, self._run.first_passages)
        return replace(found, divergence=mean_divergence(dense, own), n_tokens=sum(map(len, dense)))

    @cached_property
    def _activations(self) -> PassageActivations:
        """Those of the run's models that look at the same inputs, which read the passages
        together.
        """
        run, weights = self._run, self._run.settings.calibration.token_weights
        given = run.store, run.loaded, run.passages, self.model.watched, run.log.repeat
        found = PassageActivations(*given, token_weights=weights)
        return run.activations.setdefault(found.key, found)

    def _passage_error(self, index: int) -> float | None:
        """None where whole layers go, or the store has no room for what the projections are given
        on passages.
        """
        samples = None if self._method.takes_layers else self._activations.of(index)
        return None if samples is None else self.model.passage_error(index, samples)


def _text_identity(run: RunContext, method: MethodSettings) -> str:
    """Of the calibration text, as the method reads it; empty for one that reads none."""
    return (
        run.keys.calibration_text(mix_share(method, run.settings.calibration))
        if method.reads_text
        else ""
    )


def unchanged_warning(made: Pruned) -> str | None:
    """A warning where rounding the widths kept every channel."""
    permille, method = made.sparsity_permille, made.method
    if not (permille and method.takes_channels and made.widths == made.dense_widths):
        return None
    return f"Nothing was removed at {permille / 10:g} %: kept widths are multiples of {method.width_multiple} channels."


def prune_model(run: RunContext, method: MethodSettings, permille: int) -> SparseModel:
    """The sparse model with all its blocks, not applied yet; calibrates first where that is
    missing.
    """
    return make_blocks(run, method, permille, lambda made, index: made.model.blocks[index]).model


def make_blocks(
    run: RunContext,
    method: MethodSettings,
    permille: int,
    block: Callable[[MeasuredModel, int], object],
) -> MeasuredModel:
    """The sparse model, after `block` was called with it for each block.

    Calibrates where needed statistics are missing, and begins again where they are evicted
    meanwhile. Raises StoreError where the store cannot hold them.
    """
    lost: set[str] = set()
    calibration = run.calibration(method)
    while True:
        if method.needs_statistics:
            if calibration.is_known:
                _note_calibrated(run)
            else:
                _reach(run, calibration, len(run.loaded.blocks) - 1)
        with run.log.timed("prune"):
            run.log.on_step(Step("prune", 0, len(run.loaded.blocks)))
            try:
                made = MeasuredModel(run, method, permille)
                for index in range(len(run.loaded.blocks)):
                    block(made, index)
                made.finish()
                # The blocks as they were before they were rounded.
                run.pruning_checkpoint.let_go()
                return made
            except CacheEvicted as gone:
                if str(gone) in lost:
                    # It was computed again just now, and pushed out again.
                    raise StoreError(
                        "The calibration data does not fit into the store.", MORE_ROOM
                    ) from None
                lost.add(str(gone))


def _reach(run: RunContext, calibration: Calibration, index: int) -> None:
    """Collect statistics up to this block. Raises CalibrationError where there is far too little
    text.
    """
    with run.log.timed("calibrate"):
        run.log.warn(calibration.few_tokens_warning)
        calibration.reach(index)


def missing_statistics(
    run: RunContext, methods: Sequence[MethodSettings]
) -> Sequence[Callable[[int], None]]:
    """Functions that collect, up to a block, statistics of these methods that the store does not
    have (any more).
    """
    reading = [method for method in methods if method.needs_statistics]
    read = list(dict.fromkeys(map(run.calibration, reading)))
    masking = [run.calibration(method) for method in reading if not method.takes_channels]
    if read and all(own.is_known for own in read):
        _note_calibrated(run)
    inputs = [own.reach_inputs for own in read if own in masking and not own.has_inputs]
    return [partial(_reach, run, own) for own in read if not own.is_known] + inputs


def _note_calibrated(run: RunContext) -> None:
    """Note that the calibration was there, unless it was made now."""
    if "calibrate" not in run.log.seconds:
        run.log.note_cached("calibration")


def _heal(
    run: RunContext, method: MethodSettings, permille: int, made: PrunedChannels
) -> PrunedChannels:
    """The model with the weights of its healing, which are kept: it needs many passes over the
    text.
    """
    calibration, loaded = run.calibration(method), run.loaded
    key = pruned_key(calibration.keys.statistics, method, permille)
    for index in range(len(made.blocks)):
        # What is evaluated unhealed is what is healed.
        made.round_(index)
    if known := _known_healed(run, run.healed_weights or key, made):
        return known
    if run.healed_weights not in ("", key):
        raise JobError(
            "The healed weights of this result are gone, and this version makes others.",
            "Delete its run; run it again.",
        )
    checkpoint = HealingCheckpoint(StageCheckpoint(run.store, run.identity), key)
    with run.log.timed("heal"):
        found = heal(
            loaded,
            made.blocks,
            calibration.read(),
            run.text_to_heal(method),
            n_steps=method.heal_steps,
            seed=run.settings.calibration.seed,
            on_step=run.log.on_step,
            checkpoint=checkpoint,
        )
    figures = replace(found.figures, weights=key)
    # Evictable as any checkpoint: a run that is given up here leaves nothing that stays.
    about = about_artefact("unfinished", run.identity)
    for index, block in enumerate(found.blocks):
        run.store.put_artefact(healed_part(key, str(index)), pack_narrowed(block), about)
    run.store.put_artefact(healed_part(key, "norms"), pack_tensors(found.norms), about)
    # The last one: with it they are whole.
    run.store.put_artefact(healed_part(key, "figures"), msgspec.json.encode(figures), about)
    checkpoint.done()
    return replace(made.holding(found.blocks, found.norms), healed=figures)


def _quantise(run: RunContext, kind: Quantisation, made: PrunedChannels) -> PrunedChannels:
    """The model with the weights of a file of this type, made as an export makes it, read back and
    deleted.
    """
    dense_file = gguf_of(run.source, run.store)
    step = Step("quantise", 0, 1, message=kind.upper())
    with swept_folder(run.store.folder / EXPORTS) as place:
        file, room = place / "quantised.gguf", partial(require_export_room, place)
        on_part = begin_parts(step, run.log.on_step)
        written = write_quantised(
            file, dense_file, made, kind, is_base=True, require_room=room, on_part=on_part
        )
        found, full_bytes = (
            read_back(file, dense_file, made, kind),
            dense_bytes(opened_gguf(file), "float16"),
        )
    figures = Quantised(
        n_bytes=written.size,
        full_bytes=full_bytes,
        dense_bytes=dense_bytes(opened_gguf(dense_file), "float16"),
        tensors=found.tensors,
        fell_back=found.fell_back,
        quantiser=quantiser_version(),
    )
    return replace(made.holding(found.blocks, found.others), quantised=figures)


def _known_healed(run: RunContext, key: str, made: PrunedChannels) -> PrunedChannels | None:
    """The healed model from the store; None where a part of it is not there."""
    names = [*map(str, range(len(made.blocks))), "norms", "figures"]
    if not run.store.has_entry("artefacts", healed_part(key, "figures")):
        return None
    found = [run.store.get_artefact(healed_part(key, name)) for name in names]
    if None in found:
        return None
    *blocks, norms, figures = (data for data in found if data is not None)
    narrowed = [unpack_narrowed(data).moved_to(run.loaded.residency.offload) for data in blocks]
    with unpacked(norms, "norms") as tensors, reading_stored("healing"):
        healed = msgspec.json.decode(figures, type=Healed)
    run.log.note_cached("healed weights")
    return replace(made.holding(narrowed, tensors), healed=healed)


def protect_healed(record: Record, store: Store) -> None:
    """Exempt the healed weights that a record refers to from eviction and from the limit."""
    if record.pruned is not None and record.pruned.healed is not None:
        parts = healed_part(record.pruned.healed.weights, "")
        store.retag_artefacts(parts, about_artefact("healed", record.model_identity))


@dataclass(frozen=True, eq=False, kw_only=True)
class RebuiltModel:
    """The dense model, and the sparse one of the record if it has one, not applied yet."""

    source: Source
    loaded: LoadedModel
    sparse: SparseModel | None
    calibration_identity: str = ""


def rebuild_model(
    record: Record, store: Store, on_step: OnStep, model_cache: ModelCache
) -> RebuiltModel:
    """The model of a record, rebuilt bit for bit.

    Raises JobError where its references name another model or calibration text by now, where
    another quantiser made it, or where weights are gone that an earlier version healed.
    """
    settings = RunSettings(model=record.model, dtype=record.dtype)
    if commit := commit_of(record.model_identity):
        settings = replace(settings, revisions=((record.model, commit),))
    if record.pruned is not None:
        settings = replace(
            settings, calibration=record.pruned.calibration, methods=(record.pruned.method,)
        )
    run = RunContext(settings, store, on_step, model_cache)
    if run.identity != record.model_identity:
        raise JobError(
            f"{record.model} has changed since this result was computed.", "Run it again."
        )
    if record.pruned and (of := record.pruned.quantised) and of.quantiser != quantiser_version():
        here = quantiser_version() or "none"
        raise JobError(
            f"This result was quantised by llama.cpp's binding {of.quantiser}; here is {here}.",
            "Run it again.",
        )
    if record.pruned is None:
        return RebuiltModel(source=run.source, loaded=run.loaded, sparse=None)
    method, permille = record.pruned.method, record.pruned.sparsity_permille
    text = _text_identity(run, method)
    if record.pruned.calibration_identity not in ("", text):
        raise JobError(
            "The calibration text has changed since this result was computed.", "Run it again."
        )
    if record.pruned.healed:
        run.healed_weights = record.pruned.healed.weights
    with bf16_matmul_in_fp32(record.dtype):
        sparse = prune_model(run, method, permille)
    run.pruning_checkpoint.done()
    protect_healed(record, store)
    return RebuiltModel(
        source=run.source, loaded=run.loaded, sparse=sparse, calibration_identity=text
    )
