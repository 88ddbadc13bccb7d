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

from sparsedash.catalog.engine_limits import BATCH_TOKENS, KEPT_BYTES, KEPT_SHARE, TOGETHER_TOKENS
from sparsedash.engine.evaluation.answers import finish_, first_word
from sparsedash.engine.evaluation.early_stopping import AnyRule, chunks
from sparsedash.engine.evaluation.questions import Question
from sparsedash.engine.evaluation.reading import Asked, Read, read, that_fit
from sparsedash.engine.evaluation.so_far import SoFar
from sparsedash.engine.evaluation.target_scores import TargetScore, outcome
from sparsedash.engine.models.block_walk import batches_by_length
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
        """The outcomes of these positions. on_read: told again and again how many are read, and how many are right."""
        found, asked = self._known_and_asked(chunk)
        n_right = sum(outcome.last_word_right for outcome in found.values())
        n_read, fit = len(found), 0.0
        waiting: list[Read] = []
        on_read(n_read, n_right)
        while asked:
            together = that_fit(asked, fit)
            asked = asked[len(together) :]
            reads = read(self.loaded, together, partial(on_read, n_read, n_right))
            n_read += sum(len(each.rows) for each in reads)
            n_right += sum(score.first_wrong is None for each in reads for score in each.scores)
            on_read(n_read, n_right)
            # Nothing to wait for: what is whole can be kept, should the job be killed.
            found |= self._finished([each for each in reads if not each.unfinished])
            waiting += [each for each in reads if each.unfinished]
            room = self._kept_bytes - sum(each.kept_bytes for each in waiting)
            if room <= 0:
                found |= self._finished(waiting)
                waiting, room = [], self._kept_bytes
            if self.loaded.residency.streamed:
                # In memory nothing is spared by it, and answers would come later.
                fit = min(TOGETHER_TOKENS, room / reads[0].bytes_a_token)
        return found | self._finished(waiting)

    def _known_and_asked(self, chunk: Sequence[int]) -> tuple[dict[int, Outcome], Sequence[Asked]]:
        """What an earlier attempt has of these positions, and the batches that are left to read."""
        reads, pad = [self.questions[row].read for row in chunk], self.loaded.tokenizer.pad_token_id or 0
        found: dict[int, Outcome] = {}
        asked = []
        for part, batch in batches_by_length(reads, BATCH_TOKENS, pad, self.loaded.model.device):
            rows = [chunk[i] for i in part]
            if known := self.so_far.known(rows):
                found |= known
            else:
                asked.append(Asked(rows, [self.questions[row] for row in rows], batch))
        return found, asked

    @cached_property
    def _kept_bytes(self) -> int:
        n_bytes = sum(int(weight.nbytes) for weight in self.loaded.model.parameters())
        return max(KEPT_BYTES, int(KEPT_SHARE * n_bytes))

    def _finished(self, reads: Sequence[Read]) -> dict[int, Outcome]:
        """The outcomes of these batches, whose answers are finished together."""
        if not reads:
            return {}
        finish_(self.loaded, [part for each in reads for part in each.unfinished])
        found = {}
        for each in reads:
            for row, score, tokens in zip(each.rows, each.scores, each.begun, strict=True):
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
