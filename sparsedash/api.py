"""Prune, compare, evaluate, search and export models in memory from Python (docs/python.md).

Every call works in a temporary folder that is gone at its end, and leaves the given models as they
were. Progress goes to `on_step`; what it raises stops the work. Everything raises SparseDashError,
with a sentence and advice.
"""

import copy
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsedash.catalog.export_forms import FORMS, form_problem
from sparsedash.catalog.presets import method_name, method_named
from sparsedash.catalog.run_rules import require_healable, require_possible
from sparsedash.catalog.usual_settings import method_meant, usual_method
from sparsedash.engine.calibration.statistics import few_tokens_warning
from sparsedash.engine.export.export import export_narrowed, refuse_form
from sparsedash.engine.export.reload_proof import N_VERDICTS
from sparsedash.engine.models.decoder_blocks import remove_blocks_
from sparsedash.engine.models.in_memory import (
    model_in_memory,
    require_stock_projections,
)
from sparsedash.engine.models.loading import LoadedModel, ModelCache
from sparsedash.engine.models.locating import Source
from sparsedash.engine.models.matmul import bf16_matmul_in_fp32, default_torch_modes
from sparsedash.engine.models.sparse_models import SparseModel
from sparsedash.engine.models.structure import model_of, set_values_, with_values
from sparsedash.engine.pruning.experts import sliced_tensors
from sparsedash.engine.run.model_making import (
    prune_model,
    pruning_warning,
    what_was_pruned,
)
from sparsedash.engine.run.pipeline import dense_record
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.run.search import find_sparsity
from sparsedash.engine.run.task_answering import TaskAnswers
from sparsedash.reporting.model_results import ModelVerdict, judge, measure
from sparsedash.reporting.run_answer import find_sentence, shares_sentence
from sparsedash.reporting.verdicts import loss_words
from sparsedash.reporting.wording import NBSP, first_upper
from sparsedash.schema.errors import ExportError, ModelError, SettingsError, encodable
from sparsedash.schema.errors import SparseDashError as SparseDashError
from sparsedash.schema.export_settings import Form, Proof
from sparsedash.schema.find_settings import FindSettings, Trial
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.progress import OnStep, ignore_steps
from sparsedash.schema.progress import Step as Step
from sparsedash.schema.records import Passages, Pruned, Record, Run
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    MAX_SPARSITY_PERMILLE,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.schema.sparse_spec import SparseSpec
from sparsedash.schema.store_keys import mix_share
from sparsedash.schema.tolerance_settings import Tolerance as Tolerance
from sparsedash.stats.significance import PairedComparison
from sparsedash.stats.sparsity_search import require_passages
from sparsedash.stats.tolerance import ToleranceVerdict, Verdict
from sparsedash.storage.local_machine import local_path
from sparsedash.storage.model_folders import require_new
from sparsedash.storage.store import Store
from sparsedash.storage.text_files import count_texts

USUAL_TOLERANCE = Tolerance()
_FORMS = tuple(form for form in FORMS if form != "gguf")


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedModel:
    """A sparse model: a model of transformers with weights of its own, and how it was made.

    pruned: widths and dense_widths, inner channels of each block, 0 where a whole layer is gone;
    reached, the share of every budget that is gone. shape: counts of the dense model.
    """

    model: PreTrainedModel
    pruned: Pruned
    shape: ModelShape

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms in which `export` writes it."""
        return tuple(
            form for form in _FORMS if not form_problem(form, self.pruned, self.shape)
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Losses of a sparse model against a dense one on the same passages.

    verdict: "within", "beyond" or "undecided". sentence: the verdict in words. figures: losses and
    their intervals in words. losses: by measure, with numbers.
    paired: answers that broke and were fixed, McNemar's p. dense, sparse: the answers, passage by
    passage.
    """

    sentence: str
    figures: str
    losses: ToleranceVerdict
    paired: PairedComparison
    dense: Record
    sparse: Record

    @property
    def verdict(self) -> Verdict:
        """The verdict by all measures together."""
        return self.losses.verdict

    @property
    def within(self) -> bool:
        """Whether the loss is shown to be within the limits; not so where it is undecided."""
        return self.verdict == "within"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Result of a search. share: the largest within the limits, 0 to 0.9; None if there is none.

    sentence: the answer in words. trials: in the order they were made; the records that they name are not
    kept.
    """

    share: float | None
    sentence: str
    trials: tuple[Trial, ...]


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    method: str | MethodSettings | None = None,
    share: float = 0.2,
    budget: Budget | None = None,
    width_multiple: int | None = None,
    heal_steps: int | None = None,
    n_samples: int = CalibrationSettings.n_samples,
    length: int = CalibrationSettings.length,
    on_step: OnStep = ignore_steps,
) -> PrunedModel:
    """The sparse model with this share of a budget removed, fitted to activations on the texts.

    method: a name of docs/choices.md, or MethodSettings; budget and width_multiple override its own.
    None: the recommended one: `experts` for a mixture, `layers` for a model without MLPs, `best` for
    all others. share: 0 to 0.9, in steps of 0.001; 0.5 with 2:4 and 4:8. budget: the quantity that
    it is a share of. heal_steps: of training by the dense model, 2,048 tokens each.

    At most n_samples * length tokens are read, and by healing as many as its steps need, up to
    262,144; no more than `length` of one text.
    """
    with _in_memory(model, tokenizer) as in_memory:
        shape = in_memory.loaded.shape
        chosen = _method(method, shape, budget=budget, width_multiple=width_multiple)
        spec = SparseSpec(chosen, _permille(share, chosen), heal_steps or 0)
        _require_prunable(in_memory.loaded)
        calibration = in_memory.calibration(texts, spec, n_samples, length)
        run = in_memory.run(
            on_step,
            methods=(chosen,),
            sparsities_permille=(spec.permille,),
            heal_steps=(spec.heal_steps,),
            calibration=calibration,
        )
        require_possible(run.settings, run.shape)
        if spec.heal_steps:
            require_healable(run.calibration_texts.n_sequences(spec), streamed=False)
        with bf16_matmul_in_fp32(run.settings.dtype):
            sparse_model = prune_model(run, spec)
            if sparse_model.experts:
                sparse = _with_fewer_experts(sparse_model)
            else:
                with sparse_model.applied():
                    sparse = copy.deepcopy(in_memory.loaded.model)
            _set_modes_(sparse, model)
            if sparse_model.removed_layers:
                remove_blocks_(
                    sparse,
                    in_memory.loaded.structure.blocks,
                    sparse_model.removed_layers,
                )
        shown_calibration = replace(calibration, corpus="texts")
        pruned = what_was_pruned(spec, shown_calibration, sparse_model, run.shape)
        _warn(run.log.warnings)
        _warn(filter(None, [pruning_warning(pruned, run.shape)]))
    return _finished(sparse, pruned, run.shape)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    passages: Sequence[str],
    *,
    on_step: OnStep = ignore_steps,
) -> Record:
    """The model's answers: the last word of each passage, given all before it.

    last_word.accuracy: 0 to 1. word_perplexity: of the last words, 1 is best. outcomes: one a
    passage, in order; a passage that repeats an earlier one is left out, with a warning.
    """
    with _in_memory(model, tokenizer) as in_memory:
        return in_memory.answers(passages, on_step)[0]


def compare(
    dense: PreTrainedModel,
    sparse: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    passages: Sequence[str],
    *,
    tolerance: Tolerance = USUAL_TOLERANCE,
    on_step: OnStep = ignore_steps,
) -> Comparison:
    """The paired verdict on a sparse model: is its loss on these passages within the limits?

    tolerance: the acceptable loss. With fewer than 30 passages no loss is called within.
    """
    passages = _texts("passages", passages)
    with _in_memory(dense, tokenizer) as first, _in_memory(sparse, tokenizer) as second:
        shapes = []
        widths = []
        records = []
        for who, in_memory in (("first", first), ("second", second)):
            loaded = in_memory.loaded
            shapes.append((loaded.shape.family, loaded.shape.hidden, len(loaded.mlps)))
            widths.append(sum(mlp.width for mlp in loaded.mlps))
            records.append(in_memory.answers(passages, on_step, who=who)[0])
    (judged,) = judge([measure(*records)], tolerance)
    gone = 0
    # Of models of another shape, or of experts alone, the width says nothing.
    if shapes[0] == shapes[1] and widths[0]:
        gone = round(1000 * (1 - widths[1] / widths[0]))
    if gone < 0:
        _warn(
            [
                "The second model has more channels than the first: the dense model comes first."
            ]
        )
    name = "" if gone > 0 else "The second model"
    model = ModelVerdict(
        spec=SparseSpec(MethodSettings(), max(gone, 0)), verdict=judged.verdict
    )
    sentence = shares_sentence([model], tolerance, model_name=name)
    return Comparison(
        sentence=sentence.replace(NBSP, " "),
        figures=f"{first_upper(loss_words(judged.verdict))}.".replace(NBSP, " "),
        losses=judged.verdict,
        paired=judged.comparison,
        dense=records[0],
        sparse=records[1],
    )


def find(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    passages: Sequence[str],
    *,
    method: str | MethodSettings | None = None,
    tolerance: Tolerance = USUAL_TOLERANCE,
    budget: Budget | None = None,
    width_multiple: int | None = None,
    n_samples: int = CalibrationSettings.n_samples,
    length: int = CalibrationSettings.length,
    on_step: OnStep = ignore_steps,
) -> SearchResult:
    """The largest share of a budget that can go within the limits, by bisection.

    texts, method, budget, width_multiple, n_samples, length: as of `prune`. passages,
    tolerance: as of `compare`; each trial answers as many as it takes.
    """
    passages = _texts("passages", passages)
    require_passages(count_texts(passages).n_passages)
    with _in_memory(model, tokenizer) as in_memory:
        shape = in_memory.loaded.shape
        chosen = _method(method, shape, budget=budget, width_multiple=width_multiple)
        _require_prunable(in_memory.loaded)
        # What a model reads does not depend on the sparsity.
        any_sparsity = SparseSpec(chosen, 1)
        settings = FindSettings(
            **in_memory.shared,
            method=chosen,
            calibration=in_memory.calibration(texts, any_sparsity, n_samples, length),
            evaluation=EvaluationSettings(
                corpus=in_memory.corpus("passages", passages)
            ),
            tolerance=tolerance,
        )
        result = find_sparsity(
            settings, in_memory.store, on_step, in_memory.model_cache
        )
        store = in_memory.store
        run = store.get(Run, result.key)
        assert run is not None, "the search keeps its run"
        dense, *tried = (
            record
            for key in run.records
            if (record := store.get(Record, key)) is not None
        )
        judged = judge([measure(dense, record) for record in tried], tolerance)
        _warn(run.warnings)
    return SearchResult(
        share=None if result.answer is None else result.answer / 1000,
        sentence=find_sentence(result, judged).replace(NBSP, " "),
        trials=result.trials,
    )


def export(
    sparse: PrunedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    form: Form | None = None,
    passages: Sequence[str] | None = None,
    on_step: OnStep = ignore_steps,
) -> Proof:
    """Write the sparse model as a folder for transformers, in its own dtype, and prove it.

    folder: new. form: one of `sparse.forms`; None: the first. passages: None: built-in ones. A
    fresh process loads the folder and must give the logits and answers of the model in memory on
    the first 50 of them. What fails is deleted, and raises ExportError.
    """
    if not isinstance(sparse, PrunedModel):
        raise SettingsError("sparse", type(sparse).__name__, "what prune() returned")
    form = next(iter(sparse.forms), "masked") if form is None else form
    if form not in _FORMS:
        raise SettingsError("form", form, f"one of {', '.join(_FORMS)}")
    refuse_form(form, sparse.pruned, sparse.shape, _FORMS)
    if not isinstance(folder, str | Path) or not str(folder).strip():
        raise SettingsError("folder", folder, "the name of a new folder")
    require_new(where := local_path(folder).absolute())
    with _in_memory(sparse.model, tokenizer) as in_memory:
        record, passages_asked = in_memory.answers(passages, on_step, N_VERDICTS)
        return export_narrowed(
            where,
            form,
            sparse.pruned,
            in_memory.source,
            in_memory.loaded,
            record,
            passages_asked,
            on_step,
        )


@dataclass(frozen=True, eq=False)
class _InMemoryModel:
    """A model in memory with a temporary store for all that is computed of it."""

    source: Source
    loaded: LoadedModel
    store: Store

    @property
    def model_cache(self) -> ModelCache:
        return ModelCache(self.source, self.loaded)

    @property
    def shared(self) -> dict[str, Any]:
        """Settings that a run and a search have in common."""
        return {
            "model": self.source.reference,
            "dtype": self.loaded.dtype,
            "residency": "resident",
            "prompts": (),
        }

    def run(self, on_step: OnStep, **settings: Any) -> RunContext:
        return RunContext(
            RunSettings(**self.shared, **settings),
            self.store,
            on_step,
            self.model_cache,
        )

    def corpus(self, name: str, texts: Sequence[str]) -> str:
        """The reference of these texts, written to a file. Raises SettingsError if they are none."""
        lines = [json.dumps({"text": text}) + "\n" for text in _texts(name, texts)]
        file = self.store.folder.parent / f"{name}.jsonl"
        file.write_text("".join(lines), encoding="utf-8")
        return f"file:{file}"

    def calibration(
        self, texts: Sequence[str], spec: SparseSpec, n_samples: int, length: int
    ) -> CalibrationSettings:
        """Settings that read these texts. Warns where they are less than their part beside the mix.

        Raises CalibrationError where they are too few, whatever the mix adds, as a run does.
        """
        corpus = (
            self.corpus("texts", texts)
            if spec.reads_text
            else CalibrationSettings.corpus
        )
        settings = CalibrationSettings(
            corpus=corpus, n_samples=n_samples, length=length
        )
        if spec.reads_text:
            run = self.run(ignore_steps, methods=(spec.pruning,), calibration=settings)
            share = mix_share(spec, settings)
            n_own, n_read = (
                sum(map(len, run.calibration_texts.sequences(part)))
                for part in (0.0, share)
            )
            few_tokens_warning(self.loaded, n_own, solves=spec.pruning.solves)
            if n_own < (1 - share) * n_read:
                problem = f"The texts give {n_own:,} of {n_read:,} calibration tokens, the rest are the built-in mix."
                _warn(
                    [
                        f'{problem} Give more texts, or a method that reads yours alone, such as "least-squares".'
                    ],
                    stacklevel=4,
                )
        return settings

    def answers(
        self,
        passages: Sequence[str] | None,
        on_step: OnStep,
        n_passages: int | None = None,
        who: str = "",
    ) -> tuple[Record, Passages]:
        """The model's answers, and their passages. passages None: built-in ones.

        who: "first" or "second" of two models.
        """
        corpus = (
            BUILTIN_CLOZE if passages is None else self.corpus("passages", passages)
        )
        evaluation = EvaluationSettings(corpus=corpus, n_passages=n_passages)
        # Asked as a run asks its dense model, whose name would stand there.
        run = self.run(
            lambda step: on_step(replace(step, message="")), evaluation=evaluation
        )
        with bf16_matmul_in_fp32(run.settings.dtype):
            record = dense_record(run, TaskAnswers(run))
        if n_passages is None:
            run.warn_of_passages()
        model = f"The {who} model" if who else "The model"
        _warn(
            (line.replace("The dense model", model) for line in run.log.warnings),
            stacklevel=4,
        )
        return record, run.passages


@contextmanager
def _in_memory(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[_InMemoryModel]:
    """The model with a temporary store, in torch's default modes."""
    if isinstance(model, PrunedModel):
        raise ModelError(
            "A PrunedModel is no model of transformers.", "Give its .model."
        )
    with TemporaryDirectory(prefix="sparsedash-") as place:
        source, loaded = model_in_memory(model, tokenizer, Path(place) / "model")
        store = Store(Path(place) / "data")
        # Nothing of it stays, so that only the disk limits it.
        store.allow_artefacts(shutil.disk_usage(place).free)
        try:
            with default_torch_modes(model.device):
                yield _InMemoryModel(source, loaded, store)
        finally:
            store.close()


def _with_fewer_experts(sparse_model: SparseModel) -> PreTrainedModel:
    """A model made of the config that says how many experts there are, with their weights."""
    loaded = sparse_model.loaded
    state = loaded.model.state_dict()
    narrowed = dict(enumerate(sparse_model.experts))
    state.update(sliced_tensors(loaded.experts, narrowed, loaded.structure.blocks))
    values = loaded.structure.experts_values(sparse_model.kept)
    sparse = model_of(with_values(loaded.model.config, values))
    dense_parameters = dict(loaded.model.named_parameters())
    for name, parameter in sparse.named_parameters():
        # Buffers keep their type: rotary frequencies are FP32 in every model.
        parameter.data = parameter.data.to(dense_parameters[name].dtype)
    sparse.to(loaded.model.device)
    sparse.load_state_dict(state)
    sparse.generation_config = copy.deepcopy(loaded.model.generation_config)
    return sparse


def _set_modes_(sparse: PreTrainedModel, dense: PreTrainedModel) -> None:
    """Copy training mode and requires_grad from the dense model; a new bias as its weight."""
    dense_parameters = dict(dense.named_parameters())
    modules = dict(dense.named_modules())
    for name, parameter in sparse.named_parameters():
        dense_name = (
            name if name in dense_parameters else f"{name.rpartition('.')[0]}.weight"
        )
        parameter.requires_grad_(
            dense_name in dense_parameters
            and dense_parameters[dense_name].requires_grad
        )
    for name, module in sparse.named_modules():
        module.training = modules[name].training


def _finished(
    sparse: PreTrainedModel, pruned: Pruned, shape: ModelShape
) -> PrunedModel:
    """The sparse model; its config says its width. shape: of the dense model."""
    if pruned.method.removes_channels:
        set_values_(sparse.config, shape.structure.width_values(pruned.widths) or {})
    pruned_model = PrunedModel(model=sparse, pruned=pruned, shape=shape)
    if pruned.method.is_structured and (why := form_problem("uniform", pruned, shape)):
        # It would write a folder that stock code cannot load, and say nothing.
        by_export = (
            f"Write it by sparsedash.export, as {' or '.join(pruned_model.forms)}."
        )
        advice = (
            by_export
            if pruned_model.forms
            else "It cannot be exported either: choose another method."
        )
        error = ExportError(
            f"save_pretrained cannot write this model for stock transformers: {why}.",
            advice,
        )
        sparse.save_pretrained = partial(_refuse, error)
        _warn([] if pruned_model.forms else [str(error)], stacklevel=4)
    return pruned_model


def _refuse(error: ExportError, *_: Any, **__: Any) -> NoReturn:
    raise error


def _texts(name: str, given: Iterable[str]) -> list[str]:
    """The texts as a list. Raises SettingsError, which names the first that is none."""
    texts = (
        [] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    )
    if not texts:
        raise SettingsError(name, given, "a list of texts, at least one")
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip() or encodable(text) != text:
            raise SettingsError(
                f"{name}[{place}]",
                text,
                "a text that is not empty, in whole characters",
            )
    return texts


def _method(
    method: str | MethodSettings | None, shape: ModelShape, **given: object
) -> MethodSettings:
    """The named method, or the recommended one, with these changes. Raises SettingsError where it
    does not use one.
    """
    if isinstance(method, MethodSettings):
        chosen = method
    else:
        chosen = method_named(method_meant(method or usual_method(shape), shape))
    changes: dict[str, Any] = {
        name: value for name, value in given.items() if value is not None
    }
    for name, value in changes.items():
        if not chosen.uses(name):
            raise SettingsError(
                name.replace("_", " "), value, f"None with method {method_name(chosen)}"
            )
    return replace(chosen, **changes)


def _permille(share: float, method: MethodSettings) -> int:
    """The share in per mille. Raises SettingsError where the pattern has another or none."""
    permille_asked = (
        round(1000 * share)
        if isinstance(share, int | float) and 0 <= share <= 1
        else -1
    )
    if (
        not 0 <= permille_asked <= MAX_SPARSITY_PERMILLE
        or abs(permille_asked - 1000 * share) > 1e-6
    ):
        raise SettingsError(
            "share", share, f"0 to {MAX_SPARSITY_PERMILLE / 1000:g}, in steps of 0.001"
        )
    (permille,) = method.sparsities((permille_asked,))
    if permille != permille_asked:
        raise SettingsError(
            "share", share, f"{permille / 1000:g} with method {method_name(method)}"
        )
    return permille


def _require_prunable(loaded: LoadedModel) -> None:
    """Raise ModelError unless every block is stock, and as wide as the config says."""
    require_stock_projections(loaded)
    if tuple(mlp.width for mlp in loaded.mlps) != loaded.shape.widths:
        raise ModelError(
            "The given model's blocks have other widths than its config says.",
            "Give the dense model.",
        )


def _warn(lines: Iterable[str], stacklevel: int = 3) -> None:
    for line in lines:
        warnings.warn(line, stacklevel=stacklevel)
