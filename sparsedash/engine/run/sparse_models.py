"""Calibrates the dense model of a run and makes its sparse models, of narrower MLPs or of single weights at zero."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import TypeVar

from torch import nn

from sparsedash.engine.calibration.calibration_cache import (
    CacheEvicted,
    CalibrationCache,
    pack_errors,
    pack_masked,
    unpack_errors,
    unpack_masked,
)
from sparsedash.engine.calibration.sequential_refit import Refits, pack_narrowed, refit_sequentially, unpack_narrowed
from sparsedash.engine.calibration.statistics import (
    LazyCollector,
    StatisticsCollector,
    WalkCheckpoint,
    enough_tokens,
    few_tokens_warning,
    mlp_statistics_collector,
)
from sparsedash.engine.evaluation.questions import n_leaked
from sparsedash.engine.models.decoder_blocks import n_matmul_weights, weights_per_channel
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.pruning.allocation import ALLOCATIONS
from sparsedash.engine.pruning.channel_pruning import prune_channels
from sparsedash.engine.pruning.compensation import (
    COMPENSATIONS,
    BlockErrors,
    LayerErrors,
    channel_errors,
    passage_error,
)
from sparsedash.engine.pruning.layer import CalibrationData, LazySequence, Sample
from sparsedash.engine.pruning.surgery import Mlp, PrunedMlp, pruned, reweighted
from sparsedash.engine.pruning.weight_pruning import (
    PATTERNS,
    MaskedBlock,
    matmul_ratio,
    mlp_sparsity,
    prune_weights,
    weight_passage_error,
)
from sparsedash.engine.run.run_context import RunLog, RunModel, RunTexts
from sparsedash.schema import store_keys
from sparsedash.schema.errors import StoreError
from sparsedash.schema.method_settings import MethodSettings, Scope
from sparsedash.schema.progress import Step
from sparsedash.schema.records import Pruned, about_artefact
from sparsedash.schema.settings import SELF, CalibrationSettings, RunSettings
from sparsedash.schema.store_keys import CalibrationKeys, calibration_keys, plain_share, pruned_key, shares_read
from sparsedash.storage.store import StageCheckpoint, Store


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedChannels:
    """A model whose MLPs have fewer channels.

    loaded: what it is made of. narrowed: what each MLP becomes. errors: what each of them loses. sensitivities: see
    CalibrationData; gives none where the method does not ask for them.
    """

    loaded: LoadedModel
    narrowed: LazySequence[PrunedMlp]
    errors: Sequence[BlockErrors]
    sensitivities: Callable[[], list[float]]

    def made(self, index: int) -> PrunedMlp:
        """What this block becomes."""
        return self.narrowed[index]

    def round_(self, index: int) -> None:
        """From now on keep this block in the type that the model runs in, for which it is rounded in any case."""
        narrow, dtype = self.narrowed[index], self.loaded.mlps[index].out.weight.dtype
        if narrow.out_weight.dtype != dtype:
            rounded = replace(narrow, out_weight=narrow.out_weight.to(dtype))
            self.narrowed.replace(index, rounded.held(self.loaded.residency.hold))

    def applied(self) -> AbstractContextManager[None]:
        """Inside it the loaded model is the sparse one, and the dense one again after it."""

        def narrow(index: int, mlp: Mlp) -> AbstractContextManager[None]:
            return pruned([mlp], [self.narrowed[index]])

        changes = [partial(narrow, index, mlp) for index, mlp in enumerate(self.loaded.mlps)]
        return self.loaded.residency.changed(changes)

    @property
    def widths(self) -> list[int]:
        """Channels that each MLP has."""
        return [len(narrow.kept) for narrow in self.narrowed]

    def shares_gone(self) -> tuple[float, float]:
        """What is gone of the MLPs, and of all Linear and Conv layers, output head included."""
        mlps, total = self.loaded.mlps, n_matmul_weights(self.loaded.model)
        dense, per_channel = [mlp.width for mlp in mlps], [weights_per_channel(mlp) for mlp in mlps]
        return mlp_sparsity(dense, self.widths), matmul_ratio(dense, self.widths, per_channel, total)

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs tell what is lost on other text."""
        return [[self.loaded.family.out]] * len(self.narrowed)

    def passage_error(self, index: int, samples: list[Sample]) -> float:
        """What this block loses on samples of its watched projections' inputs."""
        return passage_error(self.loaded.mlps[index], self.narrowed[index], samples[0])


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskedWeights:
    """A model of the same shape with zeros among its weights.

    loaded: what it is made of. scope: which projections have zeros. masked: what each block's become. groups: of each
    block, the names of all projections, those together that are given the same.
    """

    loaded: LoadedModel
    scope: Scope
    masked: Sequence[MaskedBlock]
    groups: list[list[list[str]]]

    def made(self, index: int) -> MaskedBlock:
        """What this block becomes."""
        return self.masked[index]

    def round_(self, index: int) -> None:
        """Nothing: they are of the model's own type as they are made."""

    @property
    def errors(self) -> Sequence[BlockErrors]:
        """What the projections of each block lose on average."""
        return LazySequence(len(self.masked), lambda index: self.masked[index].average_errors)

    def sensitivities(self) -> list[float]:
        """None: all blocks give as much."""
        return []

    def applied(self) -> AbstractContextManager[None]:
        """Inside it the loaded model is the sparse one, and the dense one again after it."""

        def mask(index: int, block: dict[str, nn.Linear]) -> AbstractContextManager[None]:
            return reweighted([block], [self.masked[index].weights])

        projections = self.loaded.projections(self.scope)
        return self.loaded.residency.changed([partial(mask, index, block) for index, block in enumerate(projections)])

    @property
    def widths(self) -> list[int]:
        """Channels that each MLP has: all that it had."""
        return [mlp.width for mlp in self.loaded.mlps]

    def shares_gone(self) -> tuple[float, float]:
        """What is gone of the MLPs, and of all Linear and Conv layers, output head included."""
        family, total = self.loaded.family, n_matmul_weights(self.loaded.model)
        n_mlp = sum(part.weight.numel() for block in self.loaded.projections("mlp") for part in block.values())
        zeros = [(name, int((weight == 0).sum())) for block in self.masked for name, weight in block.weights.items()]
        in_mlps = sum(n for name, n in zeros if name in family.mlp)
        return in_mlps / n_mlp, sum(n for _, n in zeros) / total

    @property
    def watched(self) -> list[list[str]]:
        """Of each block, the names of the projections whose inputs tell what is lost on other text."""
        return [[names[0] for names in block] for block in self.groups]

    def passage_error(self, index: int, samples: list[Sample]) -> float:
        """What this block loses on samples of its watched projections' inputs."""
        block, masked = self.loaded.projections(self.scope)[index], self.masked[index].weights
        return weight_passage_error(block, self.groups[index], samples, masked)


SparseModel = PrunedChannels | MaskedWeights


Samples = Callable[[int], list[Sample] | None]
"""What the watched projections of a block are given, one sample each; None where the store has no room for them."""


class MeasuredModel:
    """A sparse model with all that is told of it, block by block; asked while the loaded model is the dense one.

    samples: of passages of the evaluation.
    """

    def __init__(self, model: SparseModel, samples: Samples) -> None:
        self.model, self._samples = model, samples
        self._passage_errors = LazySequence(len(model.errors), self._passage_error)
        self._sensitivities = cache(model.sensitivities)

    def block(self, index: int) -> tuple[BlockErrors, float | None]:
        """Make this block, and see what it loses on calibration text and on passages.

        More of it than the model runs with is not needed any longer then.
        """
        self.model.made(index)
        self._sensitivities()
        found = self.model.errors[index], self._passage_errors[index]
        self.model.round_(index)
        return found

    def described(self, method: MethodSettings, calibration: CalibrationSettings, permille: int) -> Pruned:
        """The record's part on pruning."""
        made, in_mlps, everywhere = self.model, *self.model.shares_gone()
        errors, on_passages = LayerErrors.of(made.errors), list(self._passage_errors)
        known = [error for error in on_passages if error is not None]
        return Pruned(
            method=method,
            calibration=calibration,
            sparsity_permille=permille,
            widths=tuple(made.widths),
            dense_widths=tuple(mlp.width for mlp in made.loaded.mlps),
            mlp_sparsity=in_mlps,
            matmul_ratio=everywhere,
            layer_errors=tuple(errors.fitted),
            held_out_errors=tuple(errors.held_out),
            uncompensated_errors=tuple(errors.uncompensated),
            passage_errors=tuple(known) if len(known) == len(on_passages) else (),
            sensitivities=tuple(self._sensitivities()),
        )

    def _passage_error(self, index: int) -> float | None:
        samples = self._samples(index)
        return None if samples is None else self.model.passage_error(index, samples)


_DIAGONAL = "diagonal"
"""Noted where there were too few tokens for whole second moments."""


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """What the parts of a run share: what is asked for, where results are kept, its model and texts, what it took."""

    settings: RunSettings
    store: Store
    model: RunModel
    texts: RunTexts
    run_log: RunLog


class RunCalibration:
    """What the methods that share one calibration text find in the store, or have collected.

    plain_share: of that text, how much is plain; see MethodSettings.
    """

    def __init__(self, parts: RunParts, plain_share: float) -> None:
        self._settings, self._reads_text = parts.settings.calibration, plain_share in shares_read(parts.settings)
        self._solves = parts.settings.solves
        self._store, self._run_log = parts.store, parts.run_log
        self._model, self._texts, self._share = parts.model, parts.texts, plain_share
        self._gathered = LazyCollector(self._begun, self._note_calibrated)

    @cached_property
    def keys(self) -> CalibrationKeys:
        """The keys of what the calibration leaves."""
        model, text = self._model, self._texts.calibration_identity(self._share)
        return calibration_keys(model.identity, model.dtype, text, self._settings)

    @property
    def is_read(self) -> bool:
        """Whether a method of the run reads this text; for the others alone nobody waits for it."""
        return self._reads_text

    @property
    def is_known(self) -> bool:
        """Whether the store has what the calibration leaves, as far as is known before it is read."""
        return self._store.recall(store_keys.calibrated_note(self.keys.statistics)) is not None

    @property
    def is_whole(self) -> bool:
        """Whether what the store has is enough for every method, whole second moments included."""
        return self._store.recall(store_keys.calibrated_note(self.keys.statistics)) != _DIAGONAL

    @property
    def warning(self) -> str | None:
        """What a person should know about the calibration in the store; None or nothing where there is nothing."""
        return self._store.recall(store_keys.calibration_warning_note(self.keys.statistics))

    @property
    def leak_warning(self) -> str | None:
        """A warning when passages stand in the calibration text; None for text that the model writes itself."""
        if self._settings.corpus == SELF:
            return None
        passages = self._texts.passages
        note = store_keys.leaked_passages_note(self.keys.statistics, passages.key)
        found = self._store.recall(note)
        if found is None:
            decode = self._model.loaded.tokenizer.decode
            found = str(n_leaked(passages, map(decode, self.sequences)))
            self._store.remember(note, found)
        if found == "0":
            return None
        return (
            f"{int(found):,} of {len(passages.indices):,} passages also stand in the calibration text: "
            "the measured loss may be too small. Calibrate on other text."
        )

    @property
    def sequences(self) -> list[list[int]]:
        """Token ids of the text."""
        return self._texts.sequences(self._share)

    @cached_property
    def cache(self) -> CalibrationCache:
        """What it leaves of the blocks."""
        return CalibrationCache(
            self._store,
            self.keys,
            self._model.loaded,
            lambda: self.sequences,
            self._run_log.on_step,
            token_weights=self._settings.token_weights,
            reads_text=self._reads_text,
        )

    def calibrate(self) -> None:
        """Collect the statistics, and keep them. Raises CalibrationError where there is far too little text."""
        self.reach(len(self._model.loaded.blocks) - 1)

    def reach(self, index: int) -> None:
        """As `calibrate`, as far as this block; so again and again for one block after another."""
        with self._run_log.timed("calibrate"):
            self._gathered.reach(index)

    def _begun(self) -> StatisticsCollector:
        loaded, weights = self._model.loaded, self._settings.token_weights
        self._run_log.warn(self._few_tokens_warning)
        walked = WalkCheckpoint(self._halfway, f"{self.keys.statistics}/hidden", self.cache.has_block)
        keep, on_step = self.cache.keep_statistics, self._run_log.on_step
        return mlp_statistics_collector(loaded, self.sequences, keep, on_step, token_weights=weights, walked=walked)

    def _note_calibrated(self) -> None:
        loaded = self._model.loaded
        self._store.remember(store_keys.calibration_warning_note(self.keys.statistics), self._few_tokens_warning or "")
        left = str(len(loaded.mlps)) if enough_tokens(loaded, self._n_tokens) else _DIAGONAL
        self._store.remember(store_keys.calibrated_note(self.keys.statistics), left)
        self._halfway.done()

    @property
    def _n_tokens(self) -> int:
        return sum(map(len, self.sequences))

    @property
    def _few_tokens_warning(self) -> str | None:
        return few_tokens_warning(self._model.loaded, self._n_tokens, solves=self._solves)

    @cached_property
    def _halfway(self) -> StageCheckpoint:
        return StageCheckpoint(self._store, self._model.identity)


T = TypeVar("T")

MORE_ROOM = "Allow it more room on the storage page, or with SPARSEDASH_ARTEFACT_GB."


class RunPruning:
    """Calibrates the model of a run, once for all methods that read the same text, and prunes it by any method."""

    def __init__(self, parts: RunParts) -> None:
        self._parts, self._run_log = parts, parts.run_log
        self._store, self._model = parts.store, parts.model
        self._calibrations: dict[float, RunCalibration] = {}
        self._energies: dict[str, dict[int, float]] = {}

    def calibration(self, method: MethodSettings) -> RunCalibration:
        """The calibration on the text that this method reads."""
        share = plain_share(method, self._parts.settings.calibration)
        return self._calibrations.setdefault(share, RunCalibration(self._parts, share))

    @property
    def calibration_keys(self) -> list[CalibrationKeys]:
        """Of every calibration that was asked for so far."""
        return [calibration.keys for calibration in self._calibrations.values()]

    def whole(self, method: MethodSettings, begun: Callable[[], T], block: Callable[[T, int], object]) -> T:
        """What `begun` gives with all blocks of a model that is pruned by this method, made one after another.

        begun: called again where statistics are lost on the way. block: makes one by its index. Calibrates first where
        the statistics are not there (any more), but not where neither the method nor another of the run reads this
        text. Raises StoreError where the store cannot hold what the calibration leaves.
        """
        lost: set[str] = set()
        calibration = self.calibration(method)
        while True:
            if not calibration.is_known:
                if calibration.is_read:
                    calibration.calibrate()
            else:
                self._note_calibrated()
            with self._run_log.timed("prune"):
                try:
                    made = begun()
                    for index in range(len(self._model.loaded.blocks)):
                        block(made, index)
                    return made
                except CacheEvicted as gone:
                    if gone.key in lost:
                        # It was made again just now, and pushed out again.
                        raise StoreError("What was calibrated does not fit into the store.", MORE_ROOM) from None
                    lost.add(gone.key)

    def missing(self, methods: Sequence[MethodSettings]) -> Sequence[Callable[[int], None]]:
        """What these methods need of calibration text, or are judged by, and is not there (any more).

        Each of them gathers it as far as a block, by its index.
        """
        found: dict[RunCalibration, bool] = {}
        for method in methods:
            calibration = self.calibration(method)
            found[calibration] = found.get(calibration, False) or not method.takes_channels
        if all(calibration.is_known for calibration in found):
            self._note_calibrated()
        read = {calibration: masks for calibration, masks in found.items() if calibration.is_read}
        inputs = [own.cache for own, masks in read.items() if masks and not own.cache.has_inputs]
        return [own.reach for own in read if not own.is_known] + [own.reach_inputs for own in inputs]

    def _note_calibrated(self) -> None:
        """Write down that the calibration was there, unless it was made now."""
        if "calibrate" not in self._run_log.seconds:
            self._run_log.note_cached("calibration")

    @cached_property
    def _halfway(self) -> StageCheckpoint:
        return StageCheckpoint(self._store, self._model.identity)

    def answered(self) -> None:
        """The sparse models that were made have answered: what was kept of their making can go."""
        self._halfway.done()

    def sparse_model(self, method: MethodSettings, permille: int) -> SparseModel:
        """The sparse model, not applied yet, none of whose blocks is made yet; that may raise CacheEvicted."""
        loaded, known = self._model.loaded, self.calibration(method).cache
        calibration = known.data_for(method, permille)
        if not PATTERNS[method.pattern].channels:
            masked = self._masked(method, permille, calibration)
            return MaskedWeights(loaded=loaded, scope=method.scope, masked=masked, groups=known.groups)
        narrowed = self._narrowed(method, permille, calibration)
        energies = self._energies.setdefault(self.calibration(method).keys.statistics, {})
        made = self._halfway.numbered(f"{self._parts_key(method, permille)}/errors", pack_errors, unpack_errors)
        errors = channel_errors(loaded.mlps, calibration, narrowed, energies, made)
        sensitivities = calibration.sensitivities if ALLOCATIONS[method.allocation].needs_losses else list[float]
        return PrunedChannels(loaded=loaded, narrowed=narrowed, errors=errors, sensitivities=sensitivities)

    def _masked(self, method: MethodSettings, permille: int, calibration: CalibrationData) -> Sequence[MaskedBlock]:
        loaded, hold = self._model.loaded, self._model.loaded.residency.hold
        projections, key = loaded.projections(method.scope), self._parts_key(method, permille)

        pack = self._packing(partial(pack_masked, refitted=method.compensation != "none"))

        def made(index: int, make: Callable[[], MaskedBlock]) -> MaskedBlock:
            def unpack(data: bytes) -> MaskedBlock:
                return unpack_masked(data, projections[index]).held(hold)

            found: MaskedBlock = self._halfway.made(f"{key}/masked/{index}", make, pack, unpack)
            return found

        on_block = self._on_block
        return prune_weights(projections, calibration, method, permille, on_block=on_block, hold=hold, made=made)

    def _narrowed(self, method: MethodSettings, permille: int, calibration: CalibrationData) -> LazySequence[PrunedMlp]:
        """What every MLP becomes; a sequential refit is kept, since it needs passes over the text."""
        chosen = self._chosen(method, permille, calibration)
        if permille == 0 or not COMPENSATIONS[method.compensation].sequential:
            return chosen
        refitted = cache(partial(self._refitted, method, permille, chosen))
        return LazySequence(len(chosen), lambda index: refitted()[index])

    def _refitted(self, method: MethodSettings, permille: int, chosen: Sequence[PrunedMlp]) -> list[PrunedMlp]:
        loaded, text, refits = self._model.loaded, self.calibration(method), self._refits(method, permille)
        if all(map(refits.has, range(len(loaded.mlps)))):
            return [refits.get(index) for index in range(len(loaded.mlps))]
        on_step, damping, strength = self._run_log.on_step, method.damping, method.strength
        return refit_sequentially(loaded, text.sequences, list(chosen), damping, strength, on_step, refits)

    def _refits(self, method: MethodSettings, permille: int) -> Refits:
        """What the store has of a sequential refit."""
        key, store, hold = self._parts_key(method, permille), self._store, self._model.loaded.residency.hold
        about = about_artefact("weights", self._model.identity)

        def has(index: int) -> bool:
            return store.has_artefact(f"{key}/{index}")

        def get(index: int) -> PrunedMlp:
            data = store.get_artefact(f"{key}/{index}")
            if data is None:
                raise CacheEvicted(key)
            return unpack_narrowed(data).held(hold)

        def put(index: int, narrow: PrunedMlp) -> None:
            store.put_artefact(f"{key}/{index}", pack_narrowed(narrow), about)

        return Refits(walked=WalkCheckpoint(self._halfway, f"{key}/hidden", has), has=has, get=get, put=put)

    def _chosen(self, method: MethodSettings, permille: int, calibration: CalibrationData) -> LazySequence[PrunedMlp]:
        """What every MLP becomes by itself, without regard to what the blocks before it have lost."""
        scores = partial(self.calibration(method).cache.channel_scores, method, permille, self._on_block)
        loaded, hold = self._model.loaded, self._model.loaded.residency.hold
        key = f"{self._parts_key(method, permille)}/chosen"
        pack = self._packing(pack_narrowed)
        keep = self._halfway.numbered(key, pack, lambda data: unpack_narrowed(data).held(hold))

        def made(index: int, make: Callable[[], PrunedMlp]) -> PrunedMlp:
            return keep(index, lambda: make().held(hold))

        return prune_channels(
            loaded.mlps, calibration, method, permille, scores=scores, on_layer=self._on_block, made=made
        )

    def _packing(self, pack: Callable[[T], bytes]) -> Callable[[T], bytes]:
        """The same, after which what was read for it is let go: many parts may be packed one after another."""

        def packed(part: T) -> bytes:
            data = pack(part)
            self._model.loaded.residency.drop()
            return data

        return packed

    def _parts_key(self, method: MethodSettings, permille: int) -> str:
        """Under which is kept what is found of a sparse model, until it has answered."""
        return pruned_key(self.calibration(method).keys.statistics, method, permille)

    def _on_block(self, done: int, total: int) -> None:
        self._model.loaded.residency.drop()
        self._run_log.on_step(Step("prune", done, total))
