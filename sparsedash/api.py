"""Prune, compare, evaluate, search and export from Python: the engine on models and texts in memory (docs/python.md).

Every call works in a temporary folder that is gone at its end, and leaves the given models as they were. Progress goes
to `on_step`; what it raises stops the work. Everything raises SparseDashError, with a sentence and advice.
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

from sparsedash.catalog.budgets import require_possible
from sparsedash.catalog.families import FAMILIES, FORMS, form_problem, one_width
from sparsedash.catalog.presets import DEFAULT_METHOD, method_named
from sparsedash.engine.export.export import export_narrowed
from sparsedash.engine.export.reload_proof import N_VERDICTS
from sparsedash.engine.healing.healing import require_held_out
from sparsedash.engine.models.loading import LoadedModel, ModelShelf, Source, model_in_memory
from sparsedash.engine.models.matmul import fastest_products
from sparsedash.engine.run.pipeline import dense_record, find_sparsity
from sparsedash.engine.run.run_context import RunContext
from sparsedash.engine.run.sparse_models import PrunedChannels, prune_model
from sparsedash.reporting.run_answer import find_sentence, verdicts_sentence
from sparsedash.reporting.run_results import judge, measure
from sparsedash.reporting.verdicts import loss_words, model_verdict
from sparsedash.reporting.wording import NBSP, first_upper
from sparsedash.schema.errors import ExportError, ModelError, SettingsError
from sparsedash.schema.errors import SparseDashError as SparseDashError
from sparsedash.schema.export_settings import Form, Proof
from sparsedash.schema.method_settings import Budget, MethodSettings
from sparsedash.schema.progress import OnStep, ignore_steps
from sparsedash.schema.progress import Step as Step
from sparsedash.schema.records import Passages, Pruned, Record, Run
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    CalibrationSettings,
    EvaluationSettings,
    FindSettings,
    RunSettings,
    Trial,
)
from sparsedash.stats.significance import PairedComparison
from sparsedash.stats.tolerance import Tolerance, ToleranceVerdict
from sparsedash.storage.store import Store


@dataclass(frozen=True, eq=False, kw_only=True)
class PrunedModel:
    """A sparse model: a model of transformers with weights of its own, and how it was made.

    pruned: widths and dense_widths, inner channels of each block; reached, the share of every budget that is gone.
    """

    model: PreTrainedModel
    pruned: Pruned

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms in which `export` writes it."""
        model_type = self.model.config.model_type
        return tuple(form for form in FORMS if form != "gguf" and not form_problem(form, self.pruned, model_type))


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """What a sparse model lost against a dense one on the same passages.

    verdict: a sentence. figures: losses and their intervals in words. judged: the verdict by measure, with numbers.
    paired: answers that broke and were mended, McNemar's p. dense, sparse: the answers, passage by passage.
    """

    verdict: str
    figures: str
    judged: ToleranceVerdict
    paired: PairedComparison
    dense: Record
    sparse: Record

    @property
    def within(self) -> bool:
        """Whether the loss is shown to be within the limits; not so where it is undecided."""
        return self.judged.verdict == "within"


@dataclass(frozen=True, kw_only=True)
class Found:
    """How much can go. share: the largest that is within the limits, 0 to 0.9; None where none was found.

    verdict: a sentence. trials: in the order they were made.
    """

    share: float | None
    verdict: str
    trials: tuple[Trial, ...]


def prune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    method: str | MethodSettings = DEFAULT_METHOD,
    share: float = 0.2,
    budget: Budget | None = None,
    n_samples: int = CalibrationSettings.n_samples,
    length: int = CalibrationSettings.length,
    heal_steps: int = 0,
    on_step: OnStep = ignore_steps,
) -> PrunedModel:
    """The sparse model in which this share of a budget is gone, fitted to the activations that the texts cause.

    method: a name of docs/choices.md, or choices of one's own. share: 0 to 0.9, in steps of 0.001. budget: what it is a
    share of; None: the method's, the MLPs' channels by name. n_samples: texts that are read, of each its first `length`
    tokens. heal_steps: of training by the dense model, on the same texts.
    """
    chosen = _method(method, budget, heal_steps)
    with _in_memory(model, tokenizer) as given:
        calibration = given.calibration(texts, chosen, n_samples, length)
        run = given.run(on_step, methods=(chosen,), sparsities_permille=(_permille(share),), calibration=calibration)
        require_possible(run.settings, run.shape)
        _require_dense(given.loaded)
        if heal_steps:
            require_held_out(len(run.expected_lengths))
        ((chosen, permille),) = run.settings.points
        with fastest_products(run.settings.dtype):
            made = prune_model(run, chosen, permille)
            with made.applied():
                sparse = copy.deepcopy(given.loaded.model)
        pruned = Pruned(
            method=chosen,
            calibration=replace(calibration, corpus="texts"),
            sparsity_permille=permille,
            widths=tuple(made.widths),
            dense_widths=run.shape.widths,
            reached=made.reached(),
            layer_errors=(),
            held_out_errors=(),
            healed=made.healed if isinstance(made, PrunedChannels) else None,
        )
        _warn(run.log.warnings)
    return _finished(model, sparse, pruned)


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    passages: Sequence[str],
    *,
    on_step: OnStep = ignore_steps,
) -> Record:
    """The model's answers: the last word of each passage, given all before it.

    last_word.accuracy: 0 to 1. word_perplexity: of the last words, 1 is best. outcomes: one a passage, in order; a
    passage that repeats an earlier one is left out, with a warning.
    """
    with _in_memory(model, tokenizer) as given:
        return given.answers(passages, on_step)[0]


def compare(
    dense: PreTrainedModel,
    sparse: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    passages: Sequence[str],
    *,
    ratio: float = FindSettings.ratio,
    points: float = FindSettings.points,
    on_step: OnStep = ignore_steps,
) -> Comparison:
    """The paired verdict on a sparse model: is its loss on these passages within the limits?

    ratio: of word perplexity to the dense model's, at most, above 1. points: of accuracy, lost at most. With fewer than
    30 passages no loss is called within.
    """
    tolerance, records, widths = Tolerance(ratio=ratio, points=points), [], []
    for model in (dense, sparse):
        with _in_memory(model, tokenizer) as given:
            records.append(given.answers(passages, on_step)[0])
            widths.append(sum(mlp.width for mlp in given.loaded.mlps))
    (judged,) = judge([measure(*records)], tolerance)
    gone = round(1000 * (1 - widths[1] / widths[0]))
    said, _, limits = model_verdict("The second model", judged.verdict, tolerance)
    by_width = gone > 0 and verdicts_sentence({gone: judged.verdict}, MethodSettings(), tolerance)
    return Comparison(
        verdict=(by_width or f"{said} {limits}").replace(NBSP, " "),
        figures=f"{first_upper(loss_words(judged.verdict))}.".replace(NBSP, " "),
        judged=judged.verdict,
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
    method: str | MethodSettings = DEFAULT_METHOD,
    ratio: float = FindSettings.ratio,
    points: float = FindSettings.points,
    budget: Budget | None = None,
    n_samples: int = CalibrationSettings.n_samples,
    length: int = CalibrationSettings.length,
    on_step: OnStep = ignore_steps,
) -> Found:
    """The largest share of a budget that can go within the limits, by bisection over the model's possible widths.

    texts, method, budget, n_samples, length: as of `prune`. passages, ratio, points: as of `compare`; each trial
    answers as many as it takes.
    """
    chosen = _method(method, budget)
    with _in_memory(model, tokenizer) as given:
        _require_dense(given.loaded)
        settings = FindSettings(
            **given.shared,
            method=chosen,
            calibration=given.calibration(texts, chosen, n_samples, length),
            evaluation=EvaluationSettings(corpus=given.corpus("passages", passages)),
            ratio=ratio,
            points=points,
        )
        found, store = find_sparsity(settings, given.store, on_step, given.shelf), given.store
        run = store.get(Run, found.key)
        assert run is not None, "the search keeps its run"
        dense, *tried = (record for key in run.records if (record := store.get(Record, key)) is not None)
        judged = judge([measure(dense, record) for record in tried], Tolerance(ratio=ratio, points=points))
        _warn(run.warnings)
    return Found(
        share=None if found.answer is None else found.answer / 1000,
        verdict=find_sentence(found, chosen, {each.permille: each.verdict for each in judged}).replace(NBSP, " "),
        trials=found.trials,
    )


def export(
    sparse: PrunedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    form: Form = "padded",
    passages: Sequence[str] | None = None,
    on_step: OnStep = ignore_steps,
) -> Proof:
    """Write the sparse model as a folder that stock transformers loads, in its type of weights, and prove it.

    folder: new. form: one of `sparse.forms`. A fresh process loads the folder and must give the logits and answers of
    the model in memory on the first 50 passages; None: built-in ones. What fails is deleted, and raises ExportError.
    """
    if form not in (possible := [each for each in FORMS if each != "gguf"]):
        raise SettingsError("form", form, f"one of {', '.join(possible)}")
    with _in_memory(sparse.model, tokenizer) as given:
        record, asked = given.answers(passages, on_step, N_VERDICTS)
        where = Path(folder).expanduser().absolute()
        return export_narrowed(where, form, sparse.pruned, given.source, given.loaded, record, asked, on_step)


@dataclass(frozen=True, eq=False)
class _Given:
    """A model in memory with a temporary store for all that is computed of it."""

    source: Source
    loaded: LoadedModel
    store: Store

    @property
    def shelf(self) -> ModelShelf:
        return ModelShelf(self.source, self.loaded)

    @property
    def shared(self) -> dict[str, Any]:
        """What a run and a search are told alike: nothing is streamed, and no prompt is continued."""
        return {"model": self.source.reference, "dtype": self.loaded.dtype, "residency": "resident", "prompts": ()}

    def run(self, on_step: OnStep, **settings: Any) -> RunContext:
        return RunContext(RunSettings(**self.shared, **settings), self.store, on_step, self.shelf)

    def corpus(self, name: str, texts: Sequence[str]) -> str:
        """The reference of these texts, which are written to a file. Raises SettingsError unless they are texts."""
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise SettingsError(name, texts, "a list of texts, none of them empty")
        file = self.store.folder.parent / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return f"file:{file}"

    def calibration(
        self, texts: Sequence[str], method: MethodSettings, n_samples: int, length: int
    ) -> CalibrationSettings:
        corpus = self.corpus("texts", texts) if method.reads_text else CalibrationSettings.corpus
        return CalibrationSettings(corpus=corpus, n_samples=n_samples, length=length)

    def answers(
        self, passages: Sequence[str] | None, on_step: OnStep, n_passages: int | None = None
    ) -> tuple[Record, Passages]:
        """The model's answers, and the passages they are of. passages None: built-in ones."""
        corpus = BUILTIN_CLOZE if passages is None else self.corpus("passages", passages)
        evaluation = EvaluationSettings(corpus=corpus, n_passages=n_passages)
        # Asked as a run asks its dense model, whose name would stand there.
        run = self.run(lambda step: on_step(replace(step, message="")), evaluation=evaluation)
        with fastest_products(run.settings.dtype):
            record = dense_record(run)
        if n_passages is None:
            run.warn_of_passages()
        _warn(run.log.warnings, stacklevel=4)
        return record, run.passages


@contextmanager
def _in_memory(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[_Given]:
    with TemporaryDirectory(prefix="sparsedash-") as place:
        source, loaded = model_in_memory(model, tokenizer, Path(place) / "model")
        store = Store(Path(place) / "data")
        # Nothing of it stays, so that only the disk limits it.
        store.allow_artefacts(shutil.disk_usage(place).free)
        try:
            yield _Given(source, loaded, store)
        finally:
            store.close()


def _finished(dense: PreTrainedModel, sparse: PreTrainedModel, pruned: Pruned) -> PrunedModel:
    """The sparse model as the dense one is: in training or not, with as many gradients; its config says its width."""
    given = dict(dense.named_parameters())
    for name, parameter in sparse.train(dense.training).named_parameters():
        parameter.requires_grad_(name in given and given[name].requires_grad)
    model_type = sparse.config.model_type
    if one_width(pruned.widths) and FAMILIES[model_type].width:
        setattr(sparse.config, FAMILIES[model_type].width, pruned.widths[0])
    made = PrunedModel(model=sparse, pruned=pruned)
    own: Form = "uniform" if pruned.method.takes_channels else "masked"
    if own not in made.forms:
        # It would write a folder that stock code cannot load, and say nothing.
        why = form_problem(own, pruned, model_type).partition(";")[0]
        sparse.save_pretrained = partial(_refuse_to_save, why, made.forms)
    return made


def _refuse_to_save(why: str, forms: Sequence[Form], *_: Any, **__: Any) -> NoReturn:
    instead = f"Write it by sparsedash.export, as {' or '.join(forms)}." if forms else ""
    raise ExportError(f"save_pretrained would write the form uniform, which cannot hold this model: {why}.", instead)


def _method(method: str | MethodSettings, budget: Budget | None, heal_steps: int = 0) -> MethodSettings:
    chosen = method_named(method) if isinstance(method, str) else method
    chosen = chosen if budget is None else replace(chosen, budget=budget)
    return chosen.healed(heal_steps) if heal_steps else chosen


def _permille(share: float) -> int:
    permille = round(1000 * share)
    if abs(permille - 1000 * share) > 1e-6:
        raise SettingsError("share", share, "0 to 0.9, in steps of 0.001")
    return permille


def _require_dense(loaded: LoadedModel) -> None:
    """Raise ModelError unless every block is as wide as the config says."""
    if tuple(mlp.width for mlp in loaded.mlps) != loaded.shape.widths:
        raise ModelError("The given model's blocks have other widths than its config says.", "Give the dense model.")


def _warn(lines: Iterable[str], stacklevel: int = 3) -> None:
    for line in lines:
        warnings.warn(line, stacklevel=stacklevel)
