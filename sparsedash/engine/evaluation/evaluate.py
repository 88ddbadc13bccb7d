"""Last-word evaluation (`lambada_openai`) of one or several models on passages, batch by batch, with checkpoints.

The rule is the common harness's: context = text up to the last space, target = " " + last word, target tokens =
enc(context + target) after enc(context); right when each of them is the model's first choice. Several batches go
through the model together, block by block: a block whose weights lie in a file is read once for all of them.

The published runs judged the last token alone, over passages padded or cut to 196 tokens. The answer to a passage of
197 is still the prediction after the last token that was read. That to a longer one was read at an unrelated place
near the beginning: the `published` rule counts it as wrong, where the run could be right by chance.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate

import msgspec
import torch
from transformers import DynamicCache

from sparsedash.catalog.resources import BATCH_TOKENS, HELD_SHARE, KEPT_BYTES, KEPT_SHARE, TOGETHER_TOKENS
from sparsedash.engine.evaluation.answers import (
    TargetScore,
    UnfinishedAnswers,
    finish_answers_,
    first_word,
    target_scores,
    unfinished_answers,
)
from sparsedash.engine.evaluation.early_stopping import AnyRule, evaluation_chunks
from sparsedash.engine.evaluation.questions import Question
from sparsedash.engine.models.decoder_blocks import Applied, Batch, BlockWalk, batches_by_length, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import StoreError
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Outcome, Passages, Stopping
from sparsedash.schema.settings import PUBLISHED_LONGEST, Rule
from sparsedash.storage.store import StageCheckpoint


class EvaluatedModel:
    """A model under evaluation, its answers by the positions of their passages, and the seconds spent on them.

    applied: context in which the loaded model is this one. checkpoint, key: where answers are kept on the way, and
    those of an interrupted attempt; None: nowhere.
    """

    def __init__(
        self, applied: Applied = nullcontext, checkpoint: StageCheckpoint | None = None, key: str = ""
    ) -> None:
        self.applied, self._checkpoint, self._key = applied, checkpoint, key
        self._before, self._answers = (checkpoint and checkpoint.get(key, _decode_answers)) or (0.0, {})

    def begin(self, n_together: int) -> None:
        """Start the clock; several models that answer together share the time."""
        self._started, self._n_together = time.perf_counter(), n_together

    def leave_out(self, seconds: float) -> None:
        """Do not count these seconds, which were spent on something else."""
        self._started += seconds

    @property
    def seconds(self) -> float:
        """Spent so far, including those of an earlier attempt on the answers that it kept."""
        return self._before + (time.perf_counter() - self._started) / self._n_together

    def known(self, rows: Sequence[int]) -> dict[int, Outcome]:
        """The answers of an earlier attempt to exactly these passages; none where one of them is missing.

        Whole batches only: another batch gives other last digits.
        """
        found = {row: self._answers[row] for row in rows if row in self._answers}
        return found if len(found) == len(rows) else {}

    def add(self, answers: Mapping[int, Outcome]) -> None:
        """Add answers, and keep them at the next checkpoint."""
        self._answers |= answers
        if self._checkpoint is not None:
            self._checkpoint.add(self._key, lambda: msgspec.json.encode((self.seconds, list(self._answers.items()))))

    def keep(self) -> None:
        """Write a checkpoint if one is due, of all models."""
        if self._checkpoint is not None:
            self._checkpoint.keep_added()


def _decode_answers(data: bytes) -> tuple[float, dict[int, Outcome]]:
    try:
        seconds, answers = msgspec.json.decode(data, type=tuple[float, list[tuple[int, Outcome]]])
    except msgspec.DecodeError as error:
        raise StoreError(f"Stored answers cannot be read: {error}.", "Start the run again.") from error
    return seconds, dict(answers)


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Outcomes in corpus order, and their speed: input tokens without padding. stopping, words_cut: as in Record."""

    outcomes: tuple[Outcome, ...]
    stopping: Stopping | None
    seconds: float
    n_tokens: int
    words_cut: tuple[int, ...]


def evaluate(
    loaded: LoadedModel,
    passages: Passages,
    on_step: OnStep,
    message: str = "",
    *,
    rule: Rule = "plain",
    stop: AnyRule | None = None,
) -> EvaluationResult:
    """Evaluate the loaded model, as it is, on every passage, or on as many as `stop` needs.

    message: name of the model, for the progress line.
    """
    (result,) = evaluate_together(loaded, passages, [EvaluatedModel()], on_step, message, rule=rule, stop=stop)
    return result


@torch.inference_mode()
def evaluate_together(
    loaded: LoadedModel,
    passages: Passages,
    models: Sequence[EvaluatedModel],
    on_step: OnStep,
    message: str = "",
    *,
    rule: Rule = "plain",
    stop: AnyRule | None = None,
    prepare: Callable[[int], None] | None = None,
) -> list[EvaluationResult]:
    """Evaluate several models together: a block is read once for all of them, and they share the time.

    stop: for a single model. prepare: called before each block that passages go through, and at their end, as on_block
    of BlockWalk.run; its time is not counted.
    """
    if not loaded.residency.streamed and len(models) == 1 and models[0].applied is not nullcontext:
        # Once: in memory a change takes all blocks at the same time.
        with models[0].applied():
            return _Evaluation(loaded, passages, models, rule, None, in_place=True).results(on_step, message, stop)
    return _Evaluation(loaded, passages, models, rule, prepare).results(on_step, message, stop)


@dataclass(eq=False)
class _Reading:
    """One batch for one model; after `_read_` its scores and answers. rows: the positions of its passages.

    begun: the tokens of each answer that differs from the target, None for the others. unfinished: those of them that
    are no whole word yet; finishing them adds to `begun`.
    """

    model: EvaluatedModel
    applied: Applied
    rows: list[int]
    batch: Batch
    scores: list[TargetScore] = field(default_factory=list)
    begun: list[list[int] | None] = field(default_factory=list)
    unfinished: list[UnfinishedAnswers] = field(default_factory=list)

    @property
    def kept_bytes(self) -> int:
        """Bytes of keys and values that are kept for finishing."""
        layers = (layer for part in self.unfinished for layer in part.layers)
        return sum(keys.nbytes + values.nbytes for keys, values in layers)


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """Models and their questions. prepare: see evaluate_together. in_place: the loaded model is the single model."""

    loaded: LoadedModel
    passages: Passages
    models: Sequence[EvaluatedModel]
    rule: Rule
    prepare: Callable[[int], None] | None
    in_place: bool = False

    @cached_property
    def questions(self) -> list[Question]:
        """One for each passage."""
        pairs = zip(self.passages.contexts, self.passages.targets, strict=True)
        return [Question.of(self.loaded, context, target) for context, target in pairs]

    def results(self, on_step: OnStep, message: str, stop: AnyRule | None) -> list[EvaluationResult]:
        """Results of all models, in their order."""
        n, n_models, questions = len(self.questions), len(self.models), self.questions
        outcomes: dict[EvaluatedModel, dict[int, Outcome]] = {model: {} for model in self.models}
        stopping = None
        step = partial(Step, "evaluate", total=n_models * n, unit="passages", message=message)

        def on_read(n_read: int, n_right: int) -> None:
            before = [outcome.last_word_right for found in outcomes.values() for outcome in found.values()]
            on_step(step(done=len(before) + n_read, n_right=sum(before) + n_right if n_models == 1 else None))

        for model in self.models:
            model.begin(n_models)
        chunks = evaluation_chunks(n)
        # Answers are finished at the end of each part, which takes passes over all weights: one part without a rule.
        for parts in [[chunk] for chunk in chunks] if stop else [chunks]:
            for model, found in self._outcomes(parts, on_read).items():
                outcomes[model] |= found
            if stop:
                stopping = stop.stopping(outcomes[self.models[0]])
            if stopping and stopping.decision != "open":
                break
        return [
            EvaluationResult(
                outcomes=tuple(found[row] for row in sorted(found)),
                stopping=stopping,
                seconds=max(model.seconds, 1e-9),
                n_tokens=sum(len(questions[row].read) for row in found),
                words_cut=tuple(words for row in sorted(found) if (words := questions[row].words_cut)),
            )
            for model, found in outcomes.items()
        ]

    def _outcomes(
        self, parts: Sequence[Sequence[int]], on_read: Callable[[int, int], None]
    ) -> dict[EvaluatedModel, dict[int, Outcome]]:
        """The outcomes of these positions; no batch spans two parts. on_read: called with numbers read and right."""
        found: dict[EvaluatedModel, dict[int, Outcome]] = {model: {} for model in self.models}
        left = self._unread(parts, found)
        known = [outcome.last_word_right for own in found.values() for outcome in own.values()]
        n_read, n_right = len(known), sum(known)
        waiting: list[_Reading] = []
        room = self._kept_bytes

        def on_block(index: int) -> None:
            self._prepare_uncounted(index)
            # After the last block all of the batch counts as read.
            if 0 < index < len(self.loaded.blocks):
                on_read(n_read, n_right)

        on_read(n_read, n_right)
        while left:
            # In memory several together save nothing, and answers would come later.
            fit = min(TOGETHER_TOKENS, room / self._bytes_per_token) if self.loaded.residency.streamed else 0.0
            together = left[: n_fitting([each.batch.ids.numel() for each in left], fit)]
            left = left[len(together) :]
            self._read_(together, on_block)
            n_read += sum(len(each.rows) for each in together)
            n_right += sum(score.first_wrong is None for each in together for score in each.scores)
            on_read(n_read, n_right)
            # Finished batches can be kept at once, should the job be killed.
            self._finish_([each for each in together if not each.unfinished], found)
            waiting += [each for each in together if each.unfinished]
            room = self._kept_bytes - sum(each.kept_bytes for each in waiting)
            if room <= 0 or not left:
                self._finish_(waiting, found)
                waiting, room = [], self._kept_bytes
        return found

    def _unread(
        self, parts: Sequence[Sequence[int]], found: dict[EvaluatedModel, dict[int, Outcome]]
    ) -> Sequence[_Reading]:
        """The batches of these positions that are left to read; answers of an earlier attempt are put into found."""
        left, pad = [], self.loaded.tokenizer.pad_token_id or 0
        for part in parts:
            reads = [self.questions[row].read for row in part]
            for places, batch in batches_by_length(reads, BATCH_TOKENS, pad, self.loaded.model.device):
                rows = [part[place] for place in places]
                for model in self.models:
                    if known := model.known(rows):
                        found[model] |= known
                    else:
                        left.append(_Reading(model, nullcontext if self.in_place else model.applied, rows, batch))
        return left

    def _prepare_uncounted(self, index: int) -> None:
        if self.prepare is None:
            return
        started = time.perf_counter()
        # Its tensors are used elsewhere as well.
        with torch.inference_mode(False):
            self.prepare(index)
        for model in self.models:
            model.leave_out(time.perf_counter() - started)

    def _read_(self, together: Sequence[_Reading], on_block: Callable[[int], None]) -> None:
        """Read these batches together, in place. on_block: as in BlockWalk.run."""
        loaded = self.loaded
        # Made without the config: one that forgets what is outside a sliding window cannot hold right-padded rows.
        caches = [DynamicCache() for _ in together]
        walk = BlockWalk(loaded.model.base_model, loaded.blocks, [each.batch for each in together], caches)

        def hold_and_report(index: int) -> None:
            for cache in caches if index else ():
                layer = cache.layers[-1]
                layer.keys, layer.values = loaded.residency.hold_all([layer.keys, layer.values])
            on_block(index)

        walk.run([each.applied for each in together], hold_and_report)
        for number, (each, cache) in enumerate(zip(together, caches, strict=True)):
            questions, device = [self.questions[row] for row in each.rows], each.batch.ids.device
            places = [row for row, question in enumerate(questions) for _ in question.target]
            columns = [len(q.context) - 1 + i for q in questions for i in range(len(q.target))]
            where = torch.tensor(places, device=device), torch.tensor(columns, device=device)
            with head_sees_only(loaded.model, *where):
                logits = walk.output(loaded.model, number).logits
            each.scores = list(target_scores(logits.float(), [q.target for q in questions], loaded.tokenizer.decode))
            each.begun = [score.first_wrong for score in each.scores]
            n_context = [len(q.context) for q in questions]
            each.unfinished = unfinished_answers(loaded, each.applied, cache, n_context, each.begun)

    @cached_property
    def _kept_bytes(self) -> int:
        n_bytes = sum(int(weight.nbytes) for weight in self.loaded.model.parameters())
        return max(KEPT_BYTES, int((HELD_SHARE if self.loaded.residency.streamed else KEPT_SHARE) * n_bytes))

    @cached_property
    def _bytes_per_token(self) -> int:
        return cache_bytes_per_token(self.loaded)

    def _finish_(self, reads: Sequence[_Reading], found: dict[EvaluatedModel, dict[int, Outcome]]) -> None:
        """Finish the answers of these batches together, and put their outcomes into found."""
        if not reads:
            return
        finish_answers_(self.loaded, [part for each in reads for part in each.unfinished])
        answered: dict[EvaluatedModel, dict[int, Outcome]] = {}
        for each in reads:
            own = answered.setdefault(each.model, {})
            for row, score, tokens in zip(each.rows, each.scores, each.begun, strict=True):
                own[row] = self._outcome(row, score, tokens)
        for model, own in answered.items():
            found[model] |= own
            model.add(own)
        for model in answered:
            model.keep()
        self.loaded.residency.drop()

    def _outcome(self, row: int, score: TargetScore, tokens: list[int] | None) -> Outcome:
        question, loaded = self.questions[row], self.loaded
        answer = loaded.tokenizer.decode(score.target) if tokens is None else first_word(loaded, tokens)
        too_long = len(question.context) + len(question.target) > PUBLISHED_LONGEST
        return Outcome(
            index=self.passages.indices[row],
            target=self.passages.targets[row].strip(),
            answer=answer.strip() or "(line break)",
            last_word_right=score.choices == score.target,
            # The last word has one rule only.
            last_token_right=score.choices[-1] == score.target[-1] and not (self.rule == "published" and too_long),
            log_likelihood=sum(token.log_likelihood for token in score.tokens),
            tokens=score.tokens,
            top=score.top,
        )


def n_fitting(sizes: Sequence[int], n_tokens: float) -> int:
    """How many of the first batches have at most so many tokens together, padding included; one at least."""
    return max(1, bisect_right(list(accumulate(sizes)), n_tokens))


def cache_bytes_per_token(loaded: LoadedModel) -> int:
    """Bytes of keys and values of each token, by a trial of the first block."""
    cache = DynamicCache()
    ids = torch.zeros((1, 1), dtype=torch.long, device=loaded.model.device)
    next(BlockWalk(loaded.model.base_model, loaded.blocks, [Batch(ids, ids)], [cache]).step(0))
    return len(loaded.blocks) * sum(int(held.nbytes) for held in (cache.layers[0].keys, cache.layers[0].values))
