"""Last-word evaluation (`lambada_openai`) of models on passages, batch by batch, resumable.

The rule is the common harness's: context = text up to the last space, target = " " + last word,
target tokens = enc(context + target) after enc(context); right when each of them is the model's
first choice. Several batches go through the model together, block by block: a block whose weights
lie in a file is read once for all of them.

The published runs judged the last token alone, over passages padded or cut to 196 tokens. The
answer to one of more than 197 was read at an unrelated place: the `published` rule counts it as
wrong.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain

import msgspec
import torch

from sparsedash.catalog.resources import BATCH_TOKENS, TOGETHER_TOKENS, unfinished_bytes
from sparsedash.engine.evaluation.answers import (
    MAX_MORE_TOKENS,
    TargetScore,
    UnfinishedAnswers,
    finish_answers_,
    first_word,
    target_scores,
    unfinished_answers,
)
from sparsedash.engine.evaluation.early_stopping import StopRule, evaluation_chunks
from sparsedash.engine.evaluation.questions import Question
from sparsedash.engine.models.decoder_blocks import (
    Applied,
    Batch,
    head_sees_only,
    n_fitting,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.next_logits import empty_caches
from sparsedash.schema.errors import StoreError
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Outcome, Passages, Stopping
from sparsedash.schema.settings import PUBLISHED_LONGEST, Rule
from sparsedash.storage.checkpoint import StageCheckpoint

_FINISHING = 0.15
"""Share of a passage's time that finishing its answer takes."""


class EvaluatedModel:
    """A model under evaluation, its outcomes by the positions of their passages, and its seconds.

    applied: context in which the loaded model is this one. checkpoint, key: where outcomes are kept
    on the way, and those of an interrupted attempt; None: nowhere.
    """

    def __init__(
        self,
        applied: Applied = nullcontext,
        checkpoint: StageCheckpoint | None = None,
        key: str = "",
    ) -> None:
        self.applied = applied
        self.checkpoint = checkpoint
        self.key = key
        self.outcomes: dict[int, Outcome] = {}
        self._started = 0.0
        self._n_together = 1
        self._seconds_before = 0.0
        self._earlier: dict[int, Outcome] = {}
        if checkpoint and (kept := checkpoint.get(key, _decode_answers)):
            self._seconds_before, self._earlier = kept

    def begin(self, n_together: int) -> None:
        """Start the clock; several models that answer together share the time."""
        self._started = time.perf_counter()
        self._n_together = n_together

    def leave_out(self, seconds: float) -> None:
        """Do not count these seconds, which were spent on something else."""
        self._started += seconds

    @property
    def seconds(self) -> float:
        """Spent so far, including those of an earlier attempt on the outcomes that it kept."""
        return (
            self._seconds_before
            + (time.perf_counter() - self._started) / self._n_together
        )

    def resume(self, rows: Sequence[int]) -> bool:
        """Take over an earlier attempt's outcomes of these passages, if all of them are there.

        Whole batches only: another batch gives other last digits.
        """
        if not self._earlier.keys() >= set(rows):
            return False
        self.outcomes |= {row: self._earlier[row] for row in rows}
        return True

    def encoded(self) -> bytes:
        """The outcomes so far, as its checkpoint keeps them."""
        return msgspec.json.encode((self.seconds, self._earlier | self.outcomes))


def _decode_answers(data: bytes) -> tuple[float, dict[int, Outcome]]:
    try:
        return msgspec.json.decode(data, type=tuple[float, dict[int, Outcome]])
    except msgspec.DecodeError as error:
        raise StoreError(
            f"Stored answers cannot be read: {error}.", "Start the run again."
        ) from error


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Outcomes in corpus order and their speed in input tokens without padding.

    stopping, words_cut: as in Record.
    """

    outcomes: tuple[Outcome, ...]
    stopping: Stopping | None
    seconds: float
    n_tokens: int
    words_cut: tuple[int, ...]


def evaluate_alone(
    loaded: LoadedModel,
    passages: Passages,
    on_step: OnStep,
    *,
    rule: Rule = "plain",
    stop: StopRule | None = None,
) -> EvaluationResult:
    """Evaluate the loaded model, as it is, on every passage, or on as many as `stop` needs."""
    return evaluate_together(
        loaded, passages, [EvaluatedModel()], on_step, rule=rule, stop=stop
    )[0]


@torch.inference_mode()
def evaluate_together(
    loaded: LoadedModel,
    passages: Passages,
    models: Sequence[EvaluatedModel],
    on_step: OnStep,
    message: str = "",
    *,
    rule: Rule = "plain",
    stop: StopRule | None = None,
    prepare: Callable[[int], None] | None = None,
) -> list[EvaluationResult]:
    """Evaluate several models together: a block is read once for all, and they share the time.

    stop: for a single model, which then answers as many passages as it needs. prepare: called
    before each block that passages go through, and at their end, as on_block of BlockWalk.run; its
    time is not counted.
    """
    # Once: in memory a change takes all blocks at the same time.
    in_place = (
        not loaded.residency.streamed
        and len(models) == 1
        and models[0].applied is not nullcontext
    )
    step = Step(
        "evaluate",
        0,
        len(models) * len(passages.indices),
        unit="passages",
        message=message,
    )
    with models[0].applied() if in_place else nullcontext():
        evaluation = _Evaluation(
            loaded, passages, models, rule, prepare, on_step, step, in_place
        )
        return evaluation.results(stop)


@dataclass(eq=False)
class _ModelBatch:
    """One batch for one model; `_forward` adds its scores and answers.

    partial_answers: the tokens of each answer that differs from the target, None for the others.
    unfinished: those of them that are no whole word yet; finishing them adds to `partial_answers`.
    """

    model: EvaluatedModel
    applied: Applied
    rows: list[int]
    batch: Batch
    scores: list[TargetScore] = field(default_factory=list)
    partial_answers: list[list[int] | None] = field(default_factory=list)
    unfinished: list[UnfinishedAnswers] = field(default_factory=list)

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that are kept for finishing."""
        layers = chain.from_iterable(part.layers for part in self.unfinished)
        return sum(keys.nbytes + values.nbytes for keys, values in layers)


@dataclass(eq=False)
class _Evaluation:
    """Models, their questions, and the numbers of passages read and right so far.

    prepare: see evaluate_together. step: at the beginning. in_place: the loaded model is the single
    model. ahead: as in Step.
    """

    loaded: LoadedModel
    passages: Passages
    models: Sequence[EvaluatedModel]
    rule: Rule
    prepare: Callable[[int], None] | None
    on_step: OnStep
    step: Step
    in_place: bool
    n_read: int = 0
    n_right: int = 0
    ahead: float = 0.0

    @cached_property
    def questions(self) -> list[Question]:
        """One for each passage."""
        pairs = zip(self.passages.contexts, self.passages.targets, strict=True)
        return [Question.of(self.loaded, context, target) for context, target in pairs]

    def results(self, stop: StopRule | None) -> list[EvaluationResult]:
        """Results of all models, in their order."""
        questions = self.questions
        stopping = None
        for model in self.models:
            model.begin(len(self.models))
        chunks = evaluation_chunks(len(questions))
        # Answers are finished at the end of each part, which takes passes over all weights: one
        # part without a rule.
        for parts in [[chunk] for chunk in chunks] if stop else [chunks]:
            self._answer(parts)
            stopping = stop.stopping(self.models[0].outcomes) if stop else None
            if stopping and stopping.decision != "open":
                break
        results = []
        for model in self.models:
            rows = sorted(model.outcomes)
            words_cut = (questions[row].words_cut for row in rows)
            result = EvaluationResult(
                outcomes=tuple(model.outcomes[row] for row in rows),
                stopping=stopping,
                seconds=max(model.seconds, 1e-9),
                n_tokens=sum(len(questions[row].read) for row in rows),
                words_cut=tuple(filter(None, words_cut)),
            )
            results.append(result)
        return results

    def _report(self) -> None:
        n_right = self.n_right if len(self.models) == 1 else None
        self.on_step(
            replace(self.step, done=self.n_read, n_right=n_right, ahead=self.ahead)
        )

    def _report_unfinished(
        self, batches: Sequence[_ModelBatch], share: float = 1.0
    ) -> None:
        """Report that this share of the answers of these batches is not finished."""
        self.ahead = -_FINISHING * share * sum(len(batch.rows) for batch in batches)
        self._report()

    def _on_block(self, index: int) -> None:
        if self.prepare is not None and not self.in_place:
            started = time.perf_counter()
            # Its tensors are used elsewhere as well.
            with torch.inference_mode(False):
                self.prepare(index)
            for model in self.models:
                model.leave_out(time.perf_counter() - started)
        # After the last block all of the batch counts as read.
        if 0 < index < len(self.loaded.blocks):
            self._report()

    def _answer(self, parts: Sequence[Sequence[int]]) -> None:
        """Add the outcomes of these positions to the models; no batch spans two parts."""
        loaded = self.loaded
        streamed = loaded.residency.streamed
        unread = self._unread(parts)
        most_bytes = unfinished_bytes(loaded.shape, loaded.dtype, streamed=streamed)
        room_bytes = most_bytes
        waiting: list[_ModelBatch] = []
        self._report()
        while unread:
            n_together = 1
            if streamed:
                # In memory several together save nothing, and answers would come later.
                n_tokens = min(
                    TOGETHER_TOKENS, room_bytes / max(1, loaded.cache_per_token)
                )
                n_together = n_fitting(
                    (item.batch.ids.numel() for item in unread), n_tokens
                )
            together = unread[:n_together]
            unread = unread[n_together:]
            self._forward(together)
            for item in together:
                self.n_read += len(item.rows)
                self.n_right += sum(score.first_wrong is None for score in item.scores)
            waiting += [item for item in together if item.unfinished]
            self._report_unfinished(waiting)
            # Finished batches can be kept at once, should the job be killed.
            self._finish_answers([item for item in together if not item.unfinished])
            room_bytes = most_bytes - sum(item.cache_bytes for item in waiting)
            # Texts that are read whole take as long together as batch by batch.
            if room_bytes <= 0 or not unread or not loaded.has_plain_cache:
                self._finish_answers(waiting)
                waiting = []
                room_bytes = most_bytes
                self.ahead = 0.0

    def _unread(self, parts: Sequence[Sequence[int]]) -> list[_ModelBatch]:
        """The batches of these positions that an earlier attempt has not answered."""
        unread: list[_ModelBatch] = []
        for part in parts:
            inputs = [self.questions[row].read for row in part]
            for places, batch in self.loaded.batches(inputs, BATCH_TOKENS):
                rows = [part[place] for place in places]
                for model in self.models:
                    if model.resume(rows):
                        self.n_read += len(rows)
                        self.n_right += sum(
                            model.outcomes[row].last_word_right for row in rows
                        )
                    else:
                        unread.append(
                            _ModelBatch(
                                model,
                                nullcontext if self.in_place else model.applied,
                                rows,
                                batch,
                            )
                        )
        return unread

    def _forward(self, together: Sequence[_ModelBatch]) -> None:
        """Read these batches together, and add their scores and answers, in place."""
        loaded = self.loaded
        caches = empty_caches(loaded, len(together))
        walk = loaded.walk([item.batch for item in together], caches)
        ahead_before = self.ahead
        block_share = sum(len(item.rows) for item in together) / len(loaded.blocks)

        def on_block(index: int) -> None:
            self.ahead = ahead_before + index * block_share * (1 - _FINISHING)
            if index:
                for cache in filter(None, caches):
                    layer = cache.layers[-1]
                    layer.keys, layer.values = loaded.residency.offload_all(
                        [layer.keys, layer.values]
                    )
            self._on_block(index)

        walk.run([item.applied for item in together], on_block)
        for number, (item, cache) in enumerate(zip(together, caches, strict=True)):
            questions = [self.questions[row] for row in item.rows]
            places: list[tuple[int, int]] = []
            for row, question in enumerate(questions):
                first = len(question.context) - 1
                places += [(row, first + i) for i in range(len(question.target))]
            rows, columns = torch.tensor(places, device=item.batch.ids.device).T
            with head_sees_only(loaded.model, rows, columns):
                logits = walk.output(loaded.model, number).logits
            targets = [question.target for question in questions]
            item.scores = list(
                target_scores(logits.float(), targets, loaded.tokenizer.decode)
            )
            item.partial_answers = [score.first_wrong for score in item.scores]
            contexts = [question.context for question in questions]
            # Where the model's context is nearly full, the answer ends with its first wrong token.
            continued = []
            for answer, context in zip(item.partial_answers, contexts, strict=True):
                most = loaded.max_length - len(context) - MAX_MORE_TOKENS + 1
                has_room = answer and len(answer) <= most
                continued.append(answer if has_room else None)
            item.unfinished = unfinished_answers(
                loaded, item.applied, cache, contexts, continued
            )

    def _finish_answers(self, batches: Sequence[_ModelBatch]) -> None:
        """Finish the answers of these batches together, and add their outcomes to their models."""
        if not batches:
            return
        finish_answers_(
            self.loaded,
            list(chain.from_iterable(item.unfinished for item in batches)),
            partial(self._report_unfinished, batches),
        )
        for item in batches:
            for row, score, answer in zip(
                item.rows, item.scores, item.partial_answers, strict=True
            ):
                item.model.outcomes[row] = self._outcome(row, score, answer)
        checkpoint = batches[0].model.checkpoint
        if checkpoint is not None:
            # Of all models, if one is due.
            checkpoint.keep({item.model.key: item.model.encoded for item in batches})
        self.loaded.residency.drop()

    def _outcome(
        self, row: int, score: TargetScore, tokens: list[int] | None
    ) -> Outcome:
        question = self.questions[row]
        loaded = self.loaded
        answer = (
            first_word(loaded, tokens)
            if tokens
            else loaded.tokenizer.decode(score.target)
        )
        too_long = len(question.context) + len(question.target) > PUBLISHED_LONGEST
        return Outcome(
            index=self.passages.indices[row],
            target=self.passages.targets[row].strip(),
            answer=answer.strip() or "(line break)",
            last_word_right=score.choices == score.target,
            # The last word has one rule only.
            last_token_right=score.choices[-1] == score.target[-1]
            and not (self.rule == "published" and too_long),
            log_likelihood=sum(token.log_likelihood for token in score.tokens),
            tokens=score.tokens,
            top=score.top,
        )
