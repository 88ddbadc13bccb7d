"""Last-word answers to passages: right or wrong, how likely the right word was, and what was said instead.

The rule is the common harness's `lambada_openai`: context = text up to the last space, target = " " + last word, target
tokens = enc(context + target) after enc(context); right when each of them is the model's first choice.

The published runs judged the last token alone, over passages padded or cut to 196 tokens. The answer to a passage of
197 is still the prediction after the last token that was read. That to a longer one was looked for at a place that does
not belong to it, near the beginning: the `published` rule counts it as wrong, where the run could be right by chance.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain

import torch

from sparsedash.catalog.engine_limits import BATCH_TOKENS, HELD_SHARE, KEPT_BYTES, KEPT_SHARE, TOGETHER_TOKENS
from sparsedash.engine.evaluation.answers import finish_, first_word
from sparsedash.engine.evaluation.early_stopping import AnyRule, chunks
from sparsedash.engine.evaluation.questions import Question
from sparsedash.engine.evaluation.reading import Answering, Asked, Read, bytes_a_token, read, that_fit
from sparsedash.engine.evaluation.so_far import SoFar
from sparsedash.engine.evaluation.target_scores import TargetScore, outcome
from sparsedash.engine.models.block_walk import Batch, batches_by_length
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.progress import OnStep, Step
from sparsedash.schema.records import Outcome, Passages, Stopping
from sparsedash.schema.settings import PUBLISHED_LONGEST, Rule


@dataclass(frozen=True, kw_only=True)
class Evaluated:
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
    so_far: SoFar | None = None,
) -> Evaluated:
    """Ask the loaded model, as it is, for the last word of every passage, or of as many as `stop` needs.

    message: which model this is, for the progress line. so_far: as in Answering.
    """
    model = Answering(so_far=so_far or SoFar())
    (evaluated,) = evaluate_together(loaded, passages, [model], on_step, message, rule=rule, stop=stop)
    return evaluated


@torch.inference_mode()
def evaluate_together(
    loaded: LoadedModel,
    passages: Passages,
    models: Sequence[Answering],
    on_step: OnStep,
    message: str = "",
    *,
    rule: Rule = "plain",
    stop: AnyRule | None = None,
    prepare: Callable[[int], None] | None = None,
) -> list[Evaluated]:
    """Ask all of these models side by side: a block is read once for all of them, and each has its share of the time.

    stop: for one alone, which is not asked further than the others. prepare: called before each block that passages go
    through, and at their end, as on_block of BlockWalk.run; what it takes is not counted.
    """
    if not loaded.residency.streamed and len(models) == 1 and models[0].applied is not nullcontext:
        # Once: in memory a change takes all blocks at the same time.
        with models[0].applied():
            alone = [replace(models[0], applied=nullcontext)]
            return evaluate_together(loaded, passages, alone, on_step, message, rule=rule, stop=stop)
    asked = _Asked(loaded, passages, rule, models, prepare)
    questions = asked.questions
    outcomes: dict[Answering, dict[int, Outcome]] = {model: {} for model in models}
    stopping = None
    step = partial(Step, "evaluate", total=len(models) * len(questions), unit="passages", message=message)

    def on_read(n_read: int, n_right: int) -> None:
        before = [outcome.last_word_right for found in outcomes.values() for outcome in found.values()]
        on_step(step(done=len(before) + n_read, n_right=sum(before) + n_right if len(models) == 1 else None))

    for model in models:
        model.so_far.begin(len(models))
    parts = chunks(len(questions))
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
class _Asked:
    """Models, and what they are asked. prepare: see evaluate_together."""

    loaded: LoadedModel
    passages: Passages
    rule: Rule
    models: Sequence[Answering]
    prepare: Callable[[int], None] | None

    @cached_property
    def questions(self) -> list[Question]:
        """One for each passage."""
        pairs = zip(self.passages.contexts, self.passages.targets, strict=True)
        return [Question.of(self.loaded, context, target) for context, target in pairs]

    def outcomes(
        self, parts: Sequence[Sequence[int]], on_read: Callable[[int, int], None]
    ) -> dict[Answering, dict[int, Outcome]]:
        """The outcomes of these positions; no batch spans two parts.

        on_read: told again and again how many are read, and how many are right.
        """
        found, asked = self._known_and_asked(parts)
        known = [outcome.last_word_right for own in found.values() for outcome in own.values()]
        n_read, n_right = len(known), sum(known)
        waiting: list[Read] = []
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
            together = that_fit(asked, fit)
            asked = asked[len(together) :]
            reads = read(self.loaded, together, on_block)
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

    def evaluated(self, found: dict[int, Outcome], stopping: Stopping | None, seconds: float) -> Evaluated:
        """All outcomes of one model, which were found in these seconds."""
        return Evaluated(
            outcomes=tuple(found[row] for row in sorted(found)),
            stopping=stopping,
            seconds=max(seconds, 1e-9),
            n_tokens=sum(len(self.questions[row].read) for row in found),
            words_cut=tuple(words for row in sorted(found) if (words := self.questions[row].words_cut)),
        )

    def _known_and_asked(
        self, parts: Sequence[Sequence[int]]
    ) -> tuple[dict[Answering, dict[int, Outcome]], Sequence[Asked]]:
        """What an earlier attempt has of these positions, and the batches that are left to read."""
        found: dict[Answering, dict[int, Outcome]] = {model: {} for model in self.models}
        asked = []
        for rows, batch in chain.from_iterable(map(self._batches, parts)):
            for model in self.models:
                if known := model.so_far.known(rows):
                    found[model] |= known
                else:
                    asked.append(Asked(model, rows, [self.questions[row] for row in rows], batch))
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
        return bytes_a_token(self.loaded)

    def _finish_(self, reads: Sequence[Read], found: dict[Answering, dict[int, Outcome]]) -> None:
        """Put the outcomes of these batches, whose answers are finished together, to those that were found."""
        if not reads:
            return
        finish_(self.loaded, [part for each in reads for part in each.unfinished])
        answered: dict[Answering, dict[int, Outcome]] = {}
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
        found = outcome(self.loaded.tokenizer.decode, index, target, score, answer)
        question = self.questions[row]
        too_long = len(question.context) + len(question.target) > PUBLISHED_LONGEST
        # The last word has one rule only.
        if self.rule == "published" and too_long:
            return replace(found, last_token_right=False)
        return found
