"""Last-word evaluation (`lambada_openai`) of one or several models on passages, batch by batch,
with checkpoints.

The rule is the common harness's: context = text up to the last space, target = " " + last word,
target tokens = enc(context + target) after enc(context); right when each of them is the model's
first choice. Several batches go through the model together, block by block: a block whose weights
lie in a file is read once for all of them.

The published runs judged the last token alone, over passages padded or cut to 196 tokens. The
answer to one of more than 197 was read at an unrelated place: the `published` rule counts it as
wrong.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate

import msgspec
import torch
from transformers import DynamicCache

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
from sparsedash.engine.models.decoder_blocks import Applied, Batch, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import StoreError
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Outcome, Passages, Stopping
from sparsedash.schema.settings import PUBLISHED_LONGEST, Rule
from sparsedash.storage.store import StageCheckpoint

_FINISHING = 0.15
"""Share of a passage's time that finishing its answer takes."""


class EvaluatedModel:
    """A model under evaluation, its outcomes by the positions of their passages, and the seconds
    spent on them.

    applied: context in which the loaded model is this one. checkpoint, key: where outcomes are kept
    on the way, and those of an interrupted attempt; None: nowhere.
    """

    def __init__(
        self,
        applied: Applied = nullcontext,
        checkpoint: StageCheckpoint | None = None,
        key: str = "",
    ) -> None:
        self.applied, self.checkpoint, self.key, self.outcomes = (
            applied,
            checkpoint,
            key,
            dict[int, Outcome](),
        )
        self._before, self._earlier = (checkpoint and checkpoint.get(key, _decode_answers)) or (
            0.0,
            {},
        )

    def begin(self, n_together: int) -> None:
        """Start the clock; several models that answer together share the time."""
        self.started, self._n_together = time.perf_counter(), n_together

    @property
    def seconds(self) -> float:
        """Spent so far, including those of an earlier attempt on the outcomes that it kept."""
        return self._before + (time.perf_counter() - self.started) / self._n_together

    def resume(self, rows: Sequence[int]) -> bool:
        """Take over an earlier attempt's outcomes of exactly these passages, if none of them is
        missing.

        Whole batches only: another batch gives other last digits.
        """
        found = {row: self._earlier[row] for row in rows if row in self._earlier}
        if len(found) == len(rows):
            self.outcomes |= found
        return len(found) == len(rows)

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
    """Outcomes in corpus order, and their speed: input tokens without padding. stopping, words_cut:
    as in Record.
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
    return evaluate_together(loaded, passages, [EvaluatedModel()], on_step, rule=rule, stop=stop)[0]


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
    """Evaluate several models together: a block is read once for all of them, and they share the
    time.

    stop: for a single model. prepare: called before each block that passages go through, and at
    their end, as on_block of BlockWalk.run; its time is not counted.
    """
    # Once: in memory a change takes all blocks at the same time.
    in_place = (
        not loaded.residency.streamed and len(models) == 1 and models[0].applied is not nullcontext
    )
    report = partial(
        Step,
        "evaluate",
        total=len(models) * len(passages.indices),
        unit="passages",
        message=message,
    )
    with models[0].applied() if in_place else nullcontext():
        evaluation = _Evaluation(loaded, passages, models, rule, prepare, on_step, report, in_place)
        return evaluation.results(stop)


@dataclass(eq=False)
class _Reading:
    """One batch for one model; after `_read_` its scores and answers. rows: the positions of its
    passages.

    begun: the tokens of each answer that differs from the target, None for the others. unfinished:
    those of them that are no whole word yet; finishing them adds to `begun`.
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
        return sum(own.nbytes for part in self.unfinished for layer in part.layers for own in layer)


@dataclass(eq=False)
class _Evaluation:
    """Models, their questions, and the numbers of passages read and right so far.

    prepare: see evaluate_together. step: a Step but for its numbers. in_place: the loaded model is
    the single model.
    ahead: as in Step.
    """

    loaded: LoadedModel
    passages: Passages
    models: Sequence[EvaluatedModel]
    rule: Rule
    prepare: Callable[[int], None] | None
    on_step: OnStep
    step: Callable[..., Step]
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
        questions, stopping = self.questions, None
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
        return [
            EvaluationResult(
                outcomes=tuple(model.outcomes[row] for row in sorted(model.outcomes)),
                stopping=stopping,
                seconds=max(model.seconds, 1e-9),
                n_tokens=sum(len(questions[row].read) for row in model.outcomes),
                words_cut=tuple(
                    words for row in sorted(model.outcomes) if (words := questions[row].words_cut)
                ),
            )
            for model in self.models
        ]

    def _report(self) -> None:
        n_right = self.n_right if len(self.models) == 1 else None
        self.on_step(self.step(done=self.n_read, n_right=n_right, ahead=self.ahead))

    def _report_left(self, reads: Sequence[_Reading], share: float = 1.0) -> None:
        """Report where this share of the answers to read batches is not finished."""
        self.ahead = -_FINISHING * share * sum(len(each.rows) for each in reads)
        self._report()

    def _on_block(self, index: int) -> None:
        if self.prepare is not None and not self.in_place:
            started = time.perf_counter()
            # Its tensors are used elsewhere as well.
            with torch.inference_mode(False):
                self.prepare(index)
            for model in self.models:
                # Not counted: spent on something else.
                model.started += time.perf_counter() - started
        # After the last block all of the batch counts as read.
        if 0 < index < len(self.loaded.blocks):
            self._report()

    def _answer(self, parts: Sequence[Sequence[int]]) -> None:
        """Add the outcomes of these positions to the models; no batch spans two parts."""
        left, waiting, loaded = self._unread(parts), list[_Reading](), self.loaded
        streamed = loaded.residency.streamed
        room = most = unfinished_bytes(loaded.shape, loaded.dtype, streamed=streamed)
        self._report()
        while left:
            # In memory several together save nothing, and answers would come later.
            fit = min(TOGETHER_TOKENS, room / loaded.cache_per_token) if streamed else 0.0
            together = left[: n_fitting((each.batch.ids.numel() for each in left), fit)]
            left = left[len(together) :]
            self._read_(together)
            self.n_read += sum(len(each.rows) for each in together)
            self.n_right += sum(
                score.first_wrong is None for each in together for score in each.scores
            )
            waiting += [each for each in together if each.unfinished]
            self._report_left(waiting)
            # Finished batches can be kept at once, should the job be killed.
            self._finish_([each for each in together if not each.unfinished])
            room = most - sum(each.kept_bytes for each in waiting)
            if room <= 0 or not left:
                self._finish_(waiting)
                waiting, room, self.ahead = [], most, 0.0

    def _unread(self, parts: Sequence[Sequence[int]]) -> list[_Reading]:
        """The batches of these positions that are left to read, without those of an earlier
        attempt.
        """
        left = list[_Reading]()
        for part in parts:
            reads = [self.questions[row].read for row in part]
            for places, batch in self.loaded.batches(reads, BATCH_TOKENS):
                rows = [part[place] for place in places]
                for model in self.models:
                    if model.resume(rows):
                        self.n_read += len(rows)
                        self.n_right += sum(model.outcomes[row].last_word_right for row in rows)
                    else:
                        left.append(
                            _Reading(
                                model, nullcontext if self.in_place else model.applied, rows, batch
                            )
                        )
        return left

    def _read_(self, together: Sequence[_Reading]) -> None:
        """Read these batches together, in place."""
        loaded = self.loaded
        # Made without the config: one that forgets what is outside a sliding window cannot hold
        # right-padded rows.
        caches = [DynamicCache() for _ in together]
        walk = loaded.walk([each.batch for each in together], caches)
        before, a_block = self.ahead, sum(len(each.rows) for each in together) / len(loaded.blocks)

        def on_block(index: int) -> None:
            self.ahead = before + index * a_block * (1 - _FINISHING)
            for cache in caches if index else ():
                layer = cache.layers[-1]
                layer.keys, layer.values = loaded.residency.offload_all([layer.keys, layer.values])
            self._on_block(index)

        walk.run([each.applied for each in together], on_block)
        for number, (each, cache) in enumerate(zip(together, caches, strict=True)):
            questions, device = [self.questions[row] for row in each.rows], each.batch.ids.device
            places = [row for row, question in enumerate(questions) for _ in question.target]
            columns = [len(q.context) - 1 + i for q in questions for i in range(len(q.target))]
            where = torch.tensor(places, device=device), torch.tensor(columns, device=device)
            with head_sees_only(loaded.model, *where):
                logits = walk.output(loaded.model, number).logits
            each.scores = list(
                target_scores(
                    logits.float(), [q.target for q in questions], loaded.tokenizer.decode
                )
            )
            each.begun = [score.first_wrong for score in each.scores]
            n_context = [len(q.context) for q in questions]
            # Where the model's context is nearly full, the answer ends with its first wrong token.
            room = [loaded.max_length - n - MAX_MORE_TOKENS for n in n_context]
            begun = [
                own if own and len(own) <= n + 1 else None
                for own, n in zip(each.begun, room, strict=True)
            ]
            each.unfinished = unfinished_answers(loaded, each.applied, cache, n_context, begun)

    def _finish_(self, reads: Sequence[_Reading]) -> None:
        """Finish the answers of these batches together, and add their outcomes to their models."""
        if not reads:
            return
        finish_answers_(
            self.loaded,
            [part for each in reads for part in each.unfinished],
            partial(self._report_left, reads),
        )
        for each in reads:
            answered = zip(each.rows, each.scores, each.begun, strict=True)
            each.model.outcomes |= {
                row: self._outcome(row, score, tokens) for row, score, tokens in answered
            }
        if (checkpoint := reads[0].model.checkpoint) is not None:
            # Of all models, if one is due.
            checkpoint.keep({each.model.key: each.model.encoded for each in reads})
        self.loaded.residency.drop()

    def _outcome(self, row: int, score: TargetScore, tokens: list[int] | None) -> Outcome:
        question, loaded = self.questions[row], self.loaded
        answer = (
            loaded.tokenizer.decode(score.target) if tokens is None else first_word(loaded, tokens)
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


def n_fitting(sizes: Iterable[int], n_tokens: float) -> int:
    """How many of the first batches have at most so many tokens together, padding included; one at
    least.
    """
    return max(1, sum(together <= n_tokens for together in accumulate(sizes)))
