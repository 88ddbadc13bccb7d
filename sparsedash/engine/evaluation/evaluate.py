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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate, chain

import msgspec
import torch
from transformers import DynamicCache

from sparsedash.catalog.resources import BATCH_TOKENS, HELD_SHARE, KEPT_BYTES, KEPT_SHARE, TOGETHER_TOKENS
from sparsedash.engine.evaluation.answers import (
    TargetScore,
    UnfinishedAnswers,
    finish_answers_,
    first_word,
    passage_outcome,
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


class AnswerCheckpoint:
    """Answers by the positions of their passages, and the seconds that were spent on them.

    halfway, key: where they are kept; None: nowhere.
    """

    def __init__(self, halfway: StageCheckpoint | None = None, key: str = "") -> None:
        self._halfway, self._key = halfway, key
        self._answers: dict[int, Outcome] = {}
        self._before = 0.0
        if halfway is not None and (known := halfway.get(key, _decode_answers)) is not None:
            self._before, self._answers = known
        self.begin(1)

    def begin(self, n_together: int) -> None:
        """From now on it is answered, by so many models at the same time, of whose seconds each has its share."""
        self._started, self._n_together = time.perf_counter(), n_together

    def leave_out(self, seconds: float) -> None:
        """These were spent on something else since it began."""
        self._started += seconds

    @property
    def seconds(self) -> float:
        """Spent so far, by an earlier attempt as well on what it kept."""
        return self._before + (time.perf_counter() - self._started) / self._n_together

    def known(self, rows: Sequence[int]) -> dict[int, Outcome]:
        """The answers of an earlier attempt to just these passages; none where one of them is missing.

        Whole batches only: what is computed in other company differs in the last digits.
        """
        found = {row: self._answers[row] for row in rows if row in self._answers}
        return found if len(found) == len(rows) else {}

    def add(self, answers: Mapping[int, Outcome]) -> None:
        """Put these to the others, to be kept with them."""
        self._answers |= answers
        if self._halfway is not None:
            self._halfway.add(self._key, self._packed)

    def keep(self) -> None:
        """Keep all that was added, if it is time to: also what other models have answered in the meantime."""
        if self._halfway is not None:
            self._halfway.keep_added()

    def _packed(self) -> bytes:
        return msgspec.json.encode((self.seconds, list(self._answers.items())))


def _decode_answers(data: bytes) -> tuple[float, dict[int, Outcome]]:
    try:
        seconds, answers = msgspec.json.decode(data, type=tuple[float, list[tuple[int, Outcome]]])
    except msgspec.DecodeError as error:
        raise StoreError(f"Stored answers cannot be read: {error}.", "Start the run again.") from error
    return seconds, dict(answers)


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluatedModel:
    """A model that answers. applied: what the loaded model becomes for it.

    so_far: where its answers are kept on the way, and those of an attempt that was broken off, which it is not asked
    for again.
    """

    applied: Applied = nullcontext
    so_far: AnswerCheckpoint = field(default_factory=AnswerCheckpoint)


@dataclass(frozen=True, eq=False)
class BatchRequest:
    """One batch that a model is to read. rows: the positions of its passages."""

    model: EvaluatedModel
    rows: list[int]
    questions: Sequence[Question]
    batch: Batch


@dataclass(frozen=True, eq=False)
class BatchAnswers:
    """One batch that was read. begun: the tokens of each answer that differs from the target, None for the others.

    unfinished: those of them that are no whole word yet; finishing them adds to `begun`.
    """

    model: EvaluatedModel
    rows: list[int]
    scores: list[TargetScore]
    begun: list[list[int] | None]
    unfinished: list[UnfinishedAnswers]

    @property
    def kept_bytes(self) -> int:
        """What is kept of the passages for finishing."""
        layers = (layer for part in self.unfinished for layer in part.layers)
        return sum(keys.nbytes + values.nbytes for keys, values in layers)


def fitting_batches(asked: Sequence[BatchRequest], n_tokens: float) -> Sequence[BatchRequest]:
    """The first of these batches that have so many tokens together, padding included; one at least."""
    so_far = list(accumulate(each.batch.ids.numel() for each in asked))
    return asked[: max(1, bisect_right(so_far, n_tokens))]


def read_batches(
    loaded: LoadedModel, asked: Sequence[BatchRequest], on_block: Callable[[int], None]
) -> list[BatchAnswers]:
    """Read these batches together. on_block: as in BlockWalk.run."""
    # Made without the config: one that forgets what is outside a sliding window cannot hold right-padded rows.
    caches = [DynamicCache() for _ in asked]
    walk = BlockWalk(loaded.model.base_model, loaded.blocks, [each.batch for each in asked], caches)

    def hold_and_tell(index: int) -> None:
        for cache in caches if index else ():
            layer = cache.layers[-1]
            layer.keys, layer.values = loaded.residency.hold_all([layer.keys, layer.values])
        on_block(index)

    walk.run([each.model.applied for each in asked], hold_and_tell)
    return [_batch_answers(loaded, each, walk, number, caches[number]) for number, each in enumerate(asked)]


def cache_bytes_per_token(loaded: LoadedModel) -> int:
    """What the model keeps of each token that it reads, as the first block tells."""
    cache = DynamicCache()
    ids = torch.zeros((1, 1), dtype=torch.long, device=loaded.model.device)
    next(BlockWalk(loaded.model.base_model, loaded.blocks, [Batch(ids, ids)], [cache]).step(0))
    return len(loaded.blocks) * sum(int(held.nbytes) for held in (cache.layers[0].keys, cache.layers[0].values))


def _batch_answers(
    loaded: LoadedModel, asked: BatchRequest, walk: BlockWalk, number: int, cache: DynamicCache
) -> BatchAnswers:
    questions, device = asked.questions, asked.batch.ids.device
    places = [row for row, question in enumerate(questions) for _ in question.target]
    columns = [len(q.context) - 1 + i for q in questions for i in range(len(q.target))]
    where = torch.tensor(places, device=device), torch.tensor(columns, device=device)
    with head_sees_only(loaded.model, *where):
        logits = walk.output(loaded.model, number).logits
    scores = list(target_scores(logits.float(), [q.target for q in questions]))
    begun = [score.first_wrong for score in scores]
    going_on = unfinished_answers(loaded, asked.model.applied, cache, [len(q.context) for q in questions], begun)
    return BatchAnswers(asked.model, asked.rows, scores, begun, going_on)


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Outcomes in corpus order, and how fast they came: input tokens, padding not counted. stopping, words_cut: as in
    Record.
    """

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
    so_far: AnswerCheckpoint | None = None,
) -> EvaluationResult:
    """Ask the loaded model, as it is, for the last word of every passage, or of as many as `stop` needs.

    message: which model this is, for the progress line. so_far: as in Answering.
    """
    model = EvaluatedModel(so_far=so_far or AnswerCheckpoint())
    (evaluated,) = evaluate_together(loaded, passages, [model], on_step, message, rule=rule, stop=stop)
    return evaluated


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
    """Ask all of these models side by side: a block is read once for all of them, and each has its share of the time.

    stop: for one alone, which is not asked further than the others. prepare: called before each block that passages go
    through, and at their end, as on_block of BlockWalk.run; what it takes is not counted.
    """
    if not loaded.residency.streamed and len(models) == 1 and models[0].applied is not nullcontext:
        # Once: in memory a change takes all blocks at the same time.
        with models[0].applied():
            alone = [replace(models[0], applied=nullcontext)]
            return evaluate_together(loaded, passages, alone, on_step, message, rule=rule, stop=stop)
    asked = _Evaluation(loaded, passages, rule, models, prepare)
    questions = asked.questions
    outcomes: dict[EvaluatedModel, dict[int, Outcome]] = {model: {} for model in models}
    stopping = None
    step = partial(Step, "evaluate", total=len(models) * len(questions), unit="passages", message=message)

    def on_read(n_read: int, n_right: int) -> None:
        before = [outcome.last_word_right for found in outcomes.values() for outcome in found.values()]
        on_step(step(done=len(before) + n_read, n_right=sum(before) + n_right if len(models) == 1 else None))

    for model in models:
        model.so_far.begin(len(models))
    parts = evaluation_chunks(len(questions))
    # Answers are finished at every end, which takes passes over all weights: without a rule there is but one.
    for together in [[part] for part in parts] if stop else [parts]:
        for model, found in asked.outcomes(together, on_read).items():
            outcomes[model] |= found
        if stop:
            stopping = stop.stopping(outcomes[models[0]])
        if stopping and stopping.decision != "open":
            break
    return [asked.evaluated(found, stopping, model.so_far.seconds) for model, found in outcomes.items()]


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """Models, and what they are asked. prepare: see evaluate_together."""

    loaded: LoadedModel
    passages: Passages
    rule: Rule
    models: Sequence[EvaluatedModel]
    prepare: Callable[[int], None] | None

    @cached_property
    def questions(self) -> list[Question]:
        """One for each passage."""
        pairs = zip(self.passages.contexts, self.passages.targets, strict=True)
        return [Question.of(self.loaded, context, target) for context, target in pairs]

    def outcomes(
        self, parts: Sequence[Sequence[int]], on_read: Callable[[int, int], None]
    ) -> dict[EvaluatedModel, dict[int, Outcome]]:
        """The outcomes of these positions; no batch spans two parts.

        on_read: told again and again how many are read, and how many are right.
        """
        found, asked = self._known_and_asked(parts)
        known = [outcome.last_word_right for own in found.values() for outcome in own.values()]
        n_read, n_right = len(known), sum(known)
        waiting: list[BatchAnswers] = []
        room = self._kept_bytes

        def on_block(index: int) -> None:
            self._prepare_uncounted(index)
            # Behind the last one it is told how many are read.
            if 0 < index < len(self.loaded.blocks):
                on_read(n_read, n_right)

        on_read(n_read, n_right)
        while asked:
            # In memory nothing is spared by several together, and answers would come later.
            fit = min(TOGETHER_TOKENS, room / self._bytes_a_token) if self.loaded.residency.streamed else 0.0
            together = fitting_batches(asked, fit)
            asked = asked[len(together) :]
            reads = read_batches(self.loaded, together, on_block)
            n_read += sum(len(each.rows) for each in reads)
            n_right += sum(score.first_wrong is None for each in reads for score in each.scores)
            on_read(n_read, n_right)
            # Nothing to wait for: what is whole can be kept, should the job be killed.
            self._finish_([each for each in reads if not each.unfinished], found)
            waiting += [each for each in reads if each.unfinished]
            room = self._kept_bytes - sum(each.kept_bytes for each in waiting)
            if room <= 0 or not asked:
                self._finish_(waiting, found)
                waiting, room = [], self._kept_bytes
        return found

    def _prepare_uncounted(self, index: int) -> None:
        if self.prepare is None:
            return
        started = time.perf_counter()
        # What is made now is used elsewhere as well.
        with torch.inference_mode(False):
            self.prepare(index)
        for model in self.models:
            model.so_far.leave_out(time.perf_counter() - started)

    def evaluated(self, found: dict[int, Outcome], stopping: Stopping | None, seconds: float) -> EvaluationResult:
        """All outcomes of one model, which were found in these seconds."""
        return EvaluationResult(
            outcomes=tuple(found[row] for row in sorted(found)),
            stopping=stopping,
            seconds=max(seconds, 1e-9),
            n_tokens=sum(len(self.questions[row].read) for row in found),
            words_cut=tuple(words for row in sorted(found) if (words := self.questions[row].words_cut)),
        )

    def _known_and_asked(
        self, parts: Sequence[Sequence[int]]
    ) -> tuple[dict[EvaluatedModel, dict[int, Outcome]], Sequence[BatchRequest]]:
        """What an earlier attempt has of these positions, and the batches that are left to read."""
        found: dict[EvaluatedModel, dict[int, Outcome]] = {model: {} for model in self.models}
        asked = []
        for rows, batch in chain.from_iterable(map(self._batches, parts)):
            for model in self.models:
                if known := model.so_far.known(rows):
                    found[model] |= known
                else:
                    asked.append(BatchRequest(model, rows, [self.questions[row] for row in rows], batch))
        return found, asked

    def _batches(self, part: Sequence[int]) -> Iterator[tuple[list[int], Batch]]:
        """The batches of these positions, and the positions of each."""
        reads, pad = [self.questions[row].read for row in part], self.loaded.tokenizer.pad_token_id or 0
        for places, batch in batches_by_length(reads, BATCH_TOKENS, pad, self.loaded.model.device):
            yield [part[place] for place in places], batch

    @cached_property
    def _kept_bytes(self) -> int:
        n_bytes = sum(int(weight.nbytes) for weight in self.loaded.model.parameters())
        return max(KEPT_BYTES, int((HELD_SHARE if self.loaded.residency.streamed else KEPT_SHARE) * n_bytes))

    @cached_property
    def _bytes_a_token(self) -> int:
        return cache_bytes_per_token(self.loaded)

    def _finish_(self, reads: Sequence[BatchAnswers], found: dict[EvaluatedModel, dict[int, Outcome]]) -> None:
        """Put the outcomes of these batches, whose answers are finished together, to those that were found."""
        if not reads:
            return
        finish_answers_(self.loaded, [part for each in reads for part in each.unfinished])
        answered: dict[EvaluatedModel, dict[int, Outcome]] = {}
        for each in reads:
            own = answered.setdefault(each.model, {})
            for row, score, tokens in zip(each.rows, each.scores, each.begun, strict=True):
                right = self.loaded.tokenizer.decode(score.target)
                own[row] = self._outcome(row, score, right if tokens is None else first_word(self.loaded, tokens))
        for model, own in answered.items():
            found[model] |= own
            model.so_far.add(own)
        for model in answered:
            model.so_far.keep()
        self.loaded.residency.drop()

    def _outcome(self, row: int, score: TargetScore, answer: str) -> Outcome:
        index, target = self.passages.indices[row], self.passages.targets[row]
        found = passage_outcome(self.loaded.tokenizer.decode, index, target, score, answer)
        question = self.questions[row]
        too_long = len(question.context) + len(question.target) > PUBLISHED_LONGEST
        # The last word has one rule only.
        if self.rule == "published" and too_long:
            return replace(found, last_token_right=False)
        return found
