"""Last-word answers to passages: right or wrong, how likely the right word was, and what was said instead.

The rule is the common harness's `lambada_openai`: context = text up to the last space, target = " " + last word, target
tokens = enc(context + target) after enc(context); right when each of them is the model's first choice.

The published runs judged the last token alone, over passages padded or cut to 196 tokens. The answer to a passage of
197 is still the prediction after the last token that was read. That to a longer one was looked for at a place that does
not belong to it, near the beginning: the `published` rule counts it as wrong, where the run could be right by chance.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from transformers import DynamicCache

from sparsedash.catalog.engine_limits import BATCH_TOKENS, KEPT_BYTES, KEPT_SHARE
from sparsedash.engine.evaluation.answers import Unfinished, finish_, first_word, unfinished
from sparsedash.engine.evaluation.early_stopping import AnyRule, chunks
from sparsedash.engine.evaluation.questions import Question
from sparsedash.engine.evaluation.so_far import SoFar
from sparsedash.engine.evaluation.target_scores import TargetScore, outcome, target_scores
from sparsedash.engine.models.block_walk import Batch, batches_by_length, head_sees_only
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Outcome, Passages, Stopping
from sparsedash.schema.settings import PUBLISHED_LONGEST, Rule


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Outcomes in corpus order, and how fast they came: input tokens, padding not counted. stopping: as in Record."""

    outcomes: tuple[Outcome, ...]
    stopping: Stopping | None
    seconds: float
    n_tokens: int


@torch.inference_mode()
def evaluate(
    loaded: LoadedModel,
    passages: Passages,
    on_step: OnStep,
    message: str = "",
    *,
    rule: Rule = "plain",
    stop: AnyRule | None = None,
    so_far: SoFar | None = None,
) -> Evaluated:
    """Ask the model for the last word of every passage, or of as many as `stop` needs.

    message: which model this is, for the progress line. so_far: where answers are kept on the way, and those of an
    attempt that was broken off, which are not asked for again.
    """
    pairs = zip(passages.contexts, passages.targets, strict=True)
    questions = [Question.of(loaded, context, target) for context, target in pairs]
    asked = _Asked(loaded, passages, questions, rule, so_far or SoFar())
    outcomes: dict[int, Outcome] = {}
    stopping = None
    started = time.perf_counter() - asked.so_far.seconds
    step = partial(Step, "evaluate", total=len(questions), unit="passages", message=message)

    def on_read(n_read: int, n_right: int) -> None:
        before = sum(o.last_word_right for o in outcomes.values())
        on_step(step(done=len(outcomes) + n_read, n_right=before + n_right))

    on_read(0, 0)
    for chunk in stop.chunks() if stop else chunks(len(questions)):
        outcomes |= asked.outcomes(chunk, on_read)
        if stop:
            stopping = stop.stopping(outcomes)
        if stopping and stopping.decision != "open":
            break
    return Evaluated(
        outcomes=tuple(outcomes[row] for row in sorted(outcomes)),
        stopping=stopping,
        seconds=max(time.perf_counter() - started, 1e-9),
        n_tokens=sum(len(questions[row].read) for row in outcomes),
    )


@dataclass(frozen=True, eq=False)
class _Asked:
    """A model, and what it is asked."""

    loaded: LoadedModel
    passages: Passages
    questions: list[Question]
    rule: Rule
    so_far: SoFar

    def outcomes(self, chunk: Sequence[int], on_read: Callable[[int, int], None]) -> dict[int, Outcome]:
        """The outcomes of these positions. on_read: told after each batch how many are read, and how many right."""
        pad = self.loaded.tokenizer.pad_token_id or 0
        reads = [self.questions[row].read for row in chunk]
        found: dict[int, Outcome] = {}
        waiting: list[_Read] = []
        n_read = n_right = 0
        for part, batch in batches_by_length(reads, BATCH_TOKENS, pad, self.loaded.model.device):
            rows = [chunk[i] for i in part]
            if known := self.so_far.known(rows):
                found |= known
                n_read, n_right = len(found), sum(outcome.last_word_right for outcome in found.values())
                on_read(n_read, n_right)
                continue
            waiting.append(_read(self.loaded, rows, [self.questions[row] for row in rows], batch))
            n_read += len(rows)
            n_right += sum(score.first_wrong is None for score in waiting[-1].scores)
            on_read(n_read, n_right)
            if waiting[-1].unfinished is None:
                # Nothing to wait for: what is whole can be kept, should the job be killed.
                found |= self._finished([waiting.pop()])
            if sum(read.kept_bytes for read in waiting) >= self._kept_bytes:
                found |= self._finished(waiting)
                waiting = []
        return found | self._finished(waiting)

    @cached_property
    def _kept_bytes(self) -> int:
        n_bytes = sum(int(weight.nbytes) for weight in self.loaded.model.parameters())
        return max(KEPT_BYTES, int(KEPT_SHARE * n_bytes))

    def _finished(self, reads: Sequence["_Read"]) -> dict[int, Outcome]:
        """The outcomes of these batches, whose answers are finished together."""
        finish_(self.loaded, [read.unfinished for read in reads if read.unfinished is not None])
        found = {}
        for read in reads:
            for row, score, tokens in zip(read.rows, read.scores, read.begun, strict=True):
                right = self.loaded.tokenizer.decode(score.target)
                found[row] = self._outcome(row, score, right if tokens is None else first_word(self.loaded, tokens))
        self.so_far.add(found)
        self.loaded.residency.drop()
        return found

    def _outcome(self, row: int, score: TargetScore, answer: str) -> Outcome:
        index, target = self.passages.indices[row], self.passages.targets[row]
        found = outcome(self.loaded.tokenizer.decode, index, target, score, answer)
        question = self.questions[row]
        too_long = len(question.context) + len(question.target) > PUBLISHED_LONGEST
        # The last word has one rule only.
        if self.rule == "published" and too_long:
            return replace(found, last_token_right=False)
        return found


@dataclass(frozen=True, eq=False)
class _Read:
    """One batch that was read. begun: the tokens of each answer that differs from the target, None for the others.

    unfinished: those of them that are no whole word yet; finishing them adds to `begun`.
    """

    rows: list[int]
    scores: list[TargetScore]
    begun: list[list[int] | None]
    unfinished: Unfinished | None

    @property
    def kept_bytes(self) -> int:
        """What is kept of the passages for finishing."""
        layers = [] if self.unfinished is None else self.unfinished.layers
        return sum(keys.nbytes + values.nbytes for keys, values in layers)


def _read(loaded: LoadedModel, rows: list[int], questions: Sequence[Question], batch: Batch) -> _Read:
    places = [row for row, question in enumerate(questions) for _ in question.target]
    columns = [len(q.context) - 1 + i for q in questions for i in range(len(q.target))]
    device = batch.ids.device
    where = torch.tensor(places, device=device), torch.tensor(columns, device=device)
    # Made here without the config: one that forgets what is outside a sliding window cannot hold right-padded rows.
    cache = DynamicCache()
    with head_sees_only(loaded.model, *where):
        output = loaded.model(
            # Padding is on the right, where a causal model's real tokens never look: no mask, and attention is faster.
            input_ids=batch.ids,
            cache=cache,
            use_cache=True,
        )
    scores = list(target_scores(output.logits.float(), [q.target for q in questions]))
    begun = [score.first_wrong for score in scores]
    return _Read(rows, scores, begun, unfinished(loaded, cache, [len(q.context) for q in questions], begun))
