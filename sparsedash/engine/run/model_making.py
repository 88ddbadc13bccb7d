"""Models of a run: pruned, measured, healed, quantised; and rebuilt from a record."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

import msgspec

from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.catalog.presets import DEFAULT_METHOD
from sparsedash.catalog.resources import MIN_REFIT_TOKENS_PER_CHANNEL, MORE_ROOM
from sparsedash.catalog.usual_settings import usual_method
from sparsedash.engine.calibration.calibration import CacheEvicted, Calibration
from sparsedash.engine.calibration.statistics import (
    pack_tensors,
    reading_stored,
    unpacked,
)
from sparsedash.engine.evaluation.divergence import mean_divergence, next_token_scores
from sparsedash.engine.healing.healing import heal
from sparsedash.engine.healing.healing_checkpoint import HealingCheckpoint
from sparsedash.engine.models.decoder_blocks import Applied
from sparsedash.engine.models.gguf_making import dense_gguf_file
from sparsedash.engine.models.gguf_quantising import read_back, write_quantised
from sparsedash.engine.models.gguf_writing import dense_bytes
from sparsedash.engine.models.loading import LoadedModel, ModelCache
from sparsedash.engine.models.locating import Source
from sparsedash.engine.models.matmul import bf16_matmul_in_fp32
from sparsedash.engine.models.sparse_models import PrunedChannels, SparseModel
from sparsedash.engine.pruning.layer import LazySequence
from sparsedash.engine.run.run_context import RunContext, protect_healed
from sparsedash.engine.run.sparse_blocks import (
    pack_narrowed,
    sparse_model,
    unpack_narrowed,
)
from sparsedash.schema.errors import JobError, StoreError
from sparsedash.schema.export_settings import EXPORTS
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.progress import OnStep, Step, begin_parts
from sparsedash.schema.records import Healed, Pruned, Quantised, Record, about_artefact
from sparsedash.schema.settings import CalibrationSettings, RunSettings, commit_of
from sparsedash.schema.sparse_spec import (
    DENSE,
    Quantisation,
    SparseSpec,
    quantiser_version,
)
from sparsedash.schema.store_keys import healed_part, mix_share, pruned_key
from sparsedash.storage.checkpoint import StageCheckpoint
from sparsedash.storage.model_folders import require_export_room, swept_folder
from sparsedash.storage.store import Store

_NOT_REFITTED = (
    "{:,} kept experts were not refitted: fewer than {} calibration tokens per channel reached "
    "them. Calibrate on more text."
)
_ONE_NOT_REFITTED = (
    "{} kept expert was not refitted: fewer than {} calibration tokens per channel reached it. "
    "Calibrate on more text."
)


class RunModel:
    """A model of a run, dense or sparse, which is made when it is first applied.

    It is made and measured while the loaded model is the dense one.
    """

    def __init__(self, run: RunContext, spec: SparseSpec) -> None:
        self.spec = spec
        self._run = run
        self._sparse: SparseModel | None = None
        self._passage_errors: Sequence[float | None] = ()

    @property
    def key(self) -> str:
        """Key of its record."""
        return self._run.record_key(self.spec)

    @property
    def applied(self) -> Applied:
        """Context in which the loaded model is this one."""
        return nullcontext if self.spec == DENSE else self.sparse.applied

    @property
    def sparse(self) -> SparseModel:
        """The sparse model, all of whose blocks are made."""
        if self._sparse is None:
            self._make(lambda index: self._begun.blocks[index])
        return self._begun

    @property
    def _begun(self) -> SparseModel:
        assert self._sparse is not None
        return self._sparse

    def begin(self) -> None:
        """Begin with no block made. May raise CacheEvicted, as may making a block."""
        self._sparse = sparse_model(self._run, self.spec)
        self._passage_errors = LazySequence(
            len(self._sparse.errors), self._passage_error
        )

    def measure(self) -> None:
        """Make the model and measure the errors of every block."""
        self._make(self.measure_block)

    def measure_block(self, index: int) -> None:
        """Make this block, measure its errors on calibration text and passages, then round it."""
        _ = self._begun.blocks[index]
        _ = self._begun.errors[index], self._passage_errors[index]
        self._begun.round_(index)

    def _make(self, make_block: Callable[[int], object]) -> None:
        """Make every block, then heal and quantise.

        Calibrates where statistics are missing, and begins again where they are evicted meanwhile.
        Raises StoreError where the store cannot hold them.
        """
        run = self._run
        n_blocks = len(run.loaded.blocks)
        calibration = run.calibration(self.spec)
        lost: set[str] = set()
        while True:
            if self.spec.pruning.needs_statistics:
                if calibration.statistics.is_known:
                    _note_calibrated(run)
                else:
                    _reach(run, calibration, n_blocks - 1)
            with run.log.timed("prune"):
                run.log.on_step(Step("prune", 0, n_blocks))
                try:
                    self.begin()
                    for index in range(n_blocks):
                        make_block(index)
                    self._heal_and_quantise()
                    # The blocks as they were before they were rounded.
                    run.pruning_checkpoint.discard_pending()
                    return
                except CacheEvicted as evicted:
                    if str(evicted) in lost:
                        # It was computed again just now, and pushed out again.
                        raise StoreError(
                            "The calibration data does not fit into the store.",
                            MORE_ROOM,
                        ) from None
                    lost.add(str(evicted))

    def _heal_and_quantise(self) -> None:
        """Healed weights are from the store where they are known; a quantised file is made anew."""
        if isinstance(self._sparse, PrunedChannels) and self.spec.is_healed:
            self._sparse = _heal(self._run, self.spec, self._sparse)
        if isinstance(self._sparse, PrunedChannels) and self.spec.quantise:
            with self._run.log.timed("quantise"):
                self._sparse = _quantise(self._run, self.spec.quantise, self._sparse)

    @cached_property
    def pruned_record(self) -> Pruned | None:
        """The record's part on pruning; None for the dense model."""
        if self.spec == DENSE:
            return None
        run = self._run
        sparse = self.sparse
        fitted, uncompensated, held_out = map(_known, zip(*sparse.errors, strict=True))
        passage_errors = tuple(
            error for error in self._passage_errors if error is not None
        )
        is_complete = len(passage_errors) == len(self._passage_errors)
        return replace(
            what_was_pruned(
                self.spec, run.settings.calibration, sparse, run.loaded.shape
            ),
            layer_errors=fitted,
            held_out_errors=held_out,
            uncompensated_errors=uncompensated,
            passage_errors=passage_errors if is_complete else (),
            alone=tuple(sparse.block_losses()),
            quantised=self._quantised_figures(),
            calibration_identity=_text_identity(run, self.spec),
        )

    def _quantised_figures(self) -> Quantised | None:
        """Those of a quantised model, with its divergence from the dense one."""
        if not isinstance(self.sparse, PrunedChannels) or self.sparse.quantised is None:
            return None
        run = self._run
        dense_scores = run.dense_scores
        with run.log.timed("quantise"), self.applied():
            scores = next_token_scores(run.loaded, run.first_passages)
        return replace(
            self.sparse.quantised,
            divergence=mean_divergence(dense_scores, scores),
            n_tokens=sum(map(len, dense_scores)),
        )

    def _passage_error(self, index: int) -> float | None:
        """None where whole layers go, or the store has no room for the inputs on passages."""
        if self.spec.pruning.removes_layers or self.spec.pruning.prunes_experts:
            return None
        samples = self._run.passage_activations(self._begun.watched).of(index)
        return None if samples is None else self._begun.passage_error(index, samples)


def what_was_pruned(
    spec: SparseSpec,
    calibration: CalibrationSettings,
    sparse: SparseModel,
    shape: ModelShape,
) -> Pruned:
    """Removal and healing, without errors or losses. shape: of the dense model."""
    return Pruned(
        spec=spec,
        calibration=calibration,
        widths=sparse.kept.widths,
        dense_widths=shape.widths,
        removed_layers=sparse.kept.removed_layers,
        experts=kept_numbers(sparse),
        expert_widths=sparse.kept.expert_widths,
        dense_expert_widths=shape.dense_expert_widths(sparse.kept),
        expert_use=tuple(narrow.use for narrow in sparse.experts),
        few_tokens=sum(narrow.n_few_tokens for narrow in sparse.experts),
        reached=sparse.reached(),
        layer_errors=(),
        held_out_errors=(),
        healed=sparse.healed if isinstance(sparse, PrunedChannels) else None,
    )


def prune_model(run: RunContext, spec: SparseSpec) -> SparseModel:
    """The sparse model, not applied; with all its channels where the spec is the dense model."""
    return (
        PrunedChannels.dense(run.loaded)
        if spec == DENSE
        else RunModel(run, spec).sparse
    )


def _text_identity(run: RunContext, spec: SparseSpec) -> str:
    """Of the calibration text, as the model reads it; empty for one that reads none."""
    if not spec.reads_text:
        return ""
    return run.keys.calibration_text(mix_share(spec, run.settings.calibration))


def kept_numbers(sparse: SparseModel) -> tuple[tuple[int, ...], ...]:
    """Of the experts of each block; empty where none is removed."""
    if not sparse.kept.experts:
        return ()
    return tuple(tuple(narrow.kept.tolist()) for narrow in sparse.experts)


def _known(errors: Sequence[float | None]) -> tuple[float, ...]:
    """The errors of all blocks; none where those of some are not known."""
    known = tuple(error for error in errors if error is not None)
    return known if len(known) == len(errors) else ()


def pruning_warning(made: Pruned, shape: ModelShape) -> str | None:
    """A warning where rounding kept everything, experts saw too few tokens to be refitted, or most
    of a mixture was not asked. shape: of the dense model.
    """
    permille = made.sparsity_permille
    method = made.method
    if made.few_tokens:
        template = _NOT_REFITTED if made.few_tokens > 1 else _ONE_NOT_REFITTED
        return template.format(made.few_tokens, MIN_REFIT_TOKENS_PER_CHANNEL)
    if permille and method.removes_channels and usual_method(shape) != DEFAULT_METHOD:
        return (
            f"Only {100 * made.reached.weights:.1f} % of the blocks' weights went: this method removes channels of the "
            "MLPs beside the experts alone. Methods for experts reach the others."
        )
    if not permille or not method.is_structured or made.reached.weights:
        return None
    if method.removes_experts:
        return (
            f"Nothing was removed at {permille / 10:g} %: the number of experts is rounded so that no more go, and as "
            "many stay as the router chooses."
        )
    return f"Nothing was removed at {permille / 10:g} %: kept widths are multiples of {method.width_multiple} channels."


def _reach(run: RunContext, calibration: Calibration, index: int) -> None:
    """Collect statistics up to this block. Raises CalibrationError for far too little text."""
    with run.log.timed("calibrate"):
        run.log.warn(calibration.few_tokens_warning)
        calibration.statistics.reach(index)


def missing_statistics(
    run: RunContext, specs: Sequence[SparseSpec]
) -> Sequence[Callable[[int], None]]:
    """Functions that collect, up to a block, the statistics that the store lacks."""
    reading = [spec for spec in specs if spec.pruning.needs_statistics]
    read = list(dict.fromkeys(map(run.calibration, reading)))
    masking = [
        run.calibration(spec) for spec in reading if not spec.pruning.is_structured
    ]
    if read and all(calibration.statistics.is_known for calibration in read):
        _note_calibrated(run)
    inputs = [
        calibration.inputs.reach
        for calibration in read
        if calibration in masking and not calibration.inputs.is_known
    ]
    return [
        partial(_reach, run, calibration)
        for calibration in read
        if not calibration.statistics.is_known
    ] + inputs


def _note_calibrated(run: RunContext) -> None:
    """Note that the calibration was there, unless it was made now."""
    if "calibrate" not in run.log.seconds:
        run.log.note_cached("calibration")


def _heal(run: RunContext, spec: SparseSpec, made: PrunedChannels) -> PrunedChannels:
    """The model with healed weights, which are stored: healing needs many passes over the text."""
    calibration = run.calibration(spec)
    key = pruned_key(calibration.keys.statistics, spec.before_quantising)
    for index in range(len(made.blocks)):
        # The model that is healed is the one that is evaluated before healing.
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
        healed = heal(
            made,
            calibration.read(),
            run.calibration_texts.to_heal(spec),
            n_steps=spec.heal_steps,
            seed=run.settings.calibration.seed,
            on_step=run.log.on_step,
            checkpoint=checkpoint,
        )
    figures = replace(healed.figures, weights=key)
    # Evictable as any checkpoint: a run that is given up here leaves nothing that stays.
    about = about_artefact("unfinished", run.identity)
    for index, block in enumerate(healed.blocks):
        run.store.put_artefact(
            healed_part(key, str(index)), pack_narrowed(block), about
        )
    run.store.put_artefact(healed_part(key, "norms"), pack_tensors(healed.norms), about)
    # The last one: with it they are whole.
    run.store.put_artefact(
        healed_part(key, "figures"), msgspec.json.encode(figures), about
    )
    checkpoint.done()
    return replace(made.with_weights(healed.blocks, healed.norms), healed=figures)


def _quantise(
    run: RunContext, kind: Quantisation, made: PrunedChannels
) -> PrunedChannels:
    """The model with weights read back from a temporary file, written as an export writes it."""
    dense_file = dense_gguf_file(run.source, run.store)
    step = Step("quantise", 0, 1, message=kind.upper())
    with swept_folder(run.store.folder / EXPORTS) as place:
        file = place / "quantised.gguf"
        room = partial(require_export_room, place)
        on_part = begin_parts(step, run.log.on_step)
        written = write_quantised(
            file,
            dense_file,
            made,
            kind,
            is_base=True,
            require_room=room,
            on_part=on_part,
        )
        stored = read_back(file, dense_file, made, kind)
        full_bytes = dense_bytes(opened_gguf(file), "float16")
    figures = Quantised(
        n_bytes=written.size,
        full_bytes=full_bytes,
        dense_bytes=dense_bytes(opened_gguf(dense_file), "float16"),
        tensors=stored.tensors,
        fell_back=stored.fell_back,
        quantiser=quantiser_version(),
    )
    return replace(made.with_weights(stored.blocks, stored.others), quantised=figures)


def _known_healed(
    run: RunContext, key: str, made: PrunedChannels
) -> PrunedChannels | None:
    """The healed model from the store; None where a part of it is not there."""
    names = [*map(str, range(len(made.blocks))), "norms", "figures"]
    if not run.store.has_entry("artefacts", healed_part(key, "figures")):
        return None
    parts = [run.store.get_artefact(healed_part(key, name)) for name in names]
    if None in parts:
        return None
    *blocks, norms, figures = (data for data in parts if data is not None)
    narrowed = [
        unpack_narrowed(data).moved_to(run.loaded.residency.offload) for data in blocks
    ]
    with unpacked(norms, "norms") as tensors, reading_stored("healing"):
        healed = msgspec.json.decode(figures, type=Healed)
    run.log.note_cached("healed weights")
    return replace(made.with_weights(narrowed, tensors), healed=healed)


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
    pruned = record.pruned
    if pruned is not None:
        settings = replace(
            settings,
            methods=(pruned.method,),
            sparsities_permille=(pruned.spec.permille,),
            heal_steps=(pruned.spec.heal_steps,),
            calibration=pruned.calibration,
        )
    healed_weights = pruned.healed.weights if pruned and pruned.healed else ""
    run = RunContext(
        settings, store, on_step, model_cache, healed_weights=healed_weights
    )
    if run.identity != record.model_identity:
        raise JobError(
            f"{record.model} has changed since this result was computed.",
            "Run it again.",
        )
    if pruned is None:
        return RebuiltModel(source=run.source, loaded=run.loaded, sparse=None)
    if pruned.quantised and pruned.quantised.quantiser != quantiser_version():
        here = quantiser_version() or "none"
        raise JobError(
            f"This result was quantised by llama.cpp's binding {pruned.quantised.quantiser}; here is {here}.",
            "Run it again.",
        )
    text = _text_identity(run, pruned.spec)
    if pruned.calibration_identity not in ("", text):
        raise JobError(
            "The calibration text has changed since this result was computed.",
            "Run it again.",
        )
    with bf16_matmul_in_fp32(record.dtype):
        sparse = prune_model(run, pruned.spec)
    run.pruning_checkpoint.done()
    protect_healed(record, store)
    return RebuiltModel(
        source=run.source, loaded=run.loaded, sparse=sparse, calibration_identity=text
    )
