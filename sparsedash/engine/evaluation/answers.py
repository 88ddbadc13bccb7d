"""Answers of a model: scores of the target tokens, and greedy decoding of wrong words."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from sparsedash.engine.models.decoder_blocks import Applied, Batch, PreallocatedLayer
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.records import Candidate, TargetToken

MAX_MORE_TOKENS = 12
"""A longer word is shown cut off."""

IsFinished = Callable[[Sequence[int]], bool]
"""Whether an answer of these tokens is finished."""

_WHOLE_WORD = re.compile(r"^\s*[\w'’\-]+")


@dataclass(frozen=True, eq=False)
class UnfinishedAnswers:
    """Unfinished answers after contexts of equal length, with their KV cache.

    applied: context in which the loaded model writes them. written: the tokens of each so far;
    finishing adds to them.
    layers: of each, keys and values (r, heads, t, e).
    """

    applied: Applied
    written: list[list[int]]
    layers: list[tuple[Tensor, Tensor]]


def unfinished_answers(
    loaded: LoadedModel,
    applied: Applied,
    cache: Cache,
    n_context: Sequence[int],
    begun: Sequence[list[int] | None],
    is_finished: IsFinished | None = None,
) -> list[UnfinishedAnswers]:
    """The answers that are not finished, grouped by the number of tokens read.

    cache: of the batch just read; emptied. n_context: tokens of each row's context. begun: the
    first tokens of each answer, None for rows that need no answer. is_finished: None: once it is a
    whole word.
    """
    is_finished = is_finished or partial(_is_whole_word, loaded)
    parts = dict[int, tuple[list[int], UnfinishedAnswers]]()
    for row, tokens in enumerate(begun):
        if tokens is not None and not is_finished(tokens):
            # The columns of target tokens after the first wrong one were read, but the model did
            # not write them.
            rows, part = parts.setdefault(
                n_context[row] + len(tokens) - 1, ([], UnfinishedAnswers(applied, [], []))
            )
            rows.append(row)
            part.written.append(tokens)
    while cache.layers:
        # Freed layer by layer: two copies of all layers may be gigabytes.
        layer = cache.layers.pop(0)
        chosen = []
        for length, (rows, _) in parts.items():
            chosen += [layer.keys[rows, :, :length], layer.values[rows, :, :length]]
        offloaded = loaded.residency.offload_all(chosen) if chosen else []
        for (_, part), keys, values in zip(
            parts.values(), offloaded[::2], offloaded[1::2], strict=True
        ):
            part.layers.append((keys, values))
    return [part for _, part in parts.values()]


def finish_answers_(
    loaded: LoadedModel,
    parts: Sequence[UnfinishedAnswers],
    on_left: Callable[[float], None] = lambda share: None,
    is_finished: IsFinished | None = None,
    n_more: int = MAX_MORE_TOKENS,
) -> None:
    """Greedy decoding of many batches' answers together, up to n_more tokens, in place.

    Each token costs a pass over all weights, for one answer as for a hundred. on_left: called
    before each block with the share of the answers that are not finished; may raise. is_finished:
    None: once it is a whole word.
    """
    is_finished = is_finished or partial(_is_whole_word, loaded)
    decodings = []
    for applied in dict.fromkeys(part.applied for part in parts):
        model_parts = [part for part in parts if part.applied == applied]
        decodings.append(_Decoding(loaded, applied, model_parts, is_finished, n_more))
    n_answers = sum(decoding.n_left for decoding in decodings)

    def on_block(_: int) -> None:
        on_left(sum(decoding.n_left for decoding in decodings) / n_answers)

    for _ in range(n_more):
        if not decodings:
            return
        caches = [decoding.cache for decoding in decodings]
        walk = loaded.walk([decoding.last() for decoding in decodings], caches)
        walk.run([decoding.applied for decoding in decodings], on_block)
        for number, decoding in enumerate(decodings):
            decoding.add_(walk.output(loaded.model, number).logits[:, -1])
        decodings = [decoding for decoding in decodings if decoding.written]


def first_word(loaded: LoadedModel, tokens: Sequence[int]) -> str:
    """The first word of these tokens, as it is shown."""
    text = loaded.tokenizer.decode(tokens).rstrip("\ufffd")
    if not text:
        return "(part of a character)"
    word = _WHOLE_WORD.match(text)
    return word.group() if word else text.strip()[:1]


class _Decoding:
    """Batched decoding of one model's answers, with one mask (r, t) and one cache.

    The parts give up their caches on the way.

    Rows are left-padded, for sliding windows. Positions are in the keys already, or are counted
    from the mask. written: the tokens of each; none when all are finished.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        applied: Applied,
        parts: Sequence[UnfinishedAnswers],
        is_finished: IsFinished,
        n_more: int,
    ) -> None:
        self.applied = applied
        self._is_finished = is_finished
        self.written = list(chain.from_iterable(part.written for part in parts))
        self._going_on = list(range(len(self.written)))
        lengths = list[int]()
        for part in parts:
            lengths += [part.layers[0][0].shape[2]] * len(part.written)
        self.cache = DynamicCache()
        for _ in range(len(parts[0].layers)):
            # Layer by layer, as above; and dropped, since the next one is as large and finds no
            # room in the gaps.
            layers = [part.layers.pop(0) for part in parts]
            hold = loaded.residency.offload_all
            self.cache.layers.append(PreallocatedLayer.right_aligned(layers, n_more, hold))
            loaded.residency.drop()
        columns = torch.arange(max(lengths), device=self.cache.layers[0].device)
        self._mask = (
            columns >= max(lengths) - torch.tensor(lengths, device=columns.device)[:, None]
        ).long()

    @property
    def n_left(self) -> int:
        """Answers that are not finished."""
        return len(self._going_on)

    def last(self) -> Batch:
        """The last token of each row, as the next input of the model."""
        ids = torch.tensor([[tokens[-1]] for tokens in self.written], device=self._mask.device)
        positions = self._mask.sum(dim=1, keepdim=True)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        inputs = {"attention_mask": self._mask, "position_ids": positions}
        return Batch(ids, self._mask, inputs)

    def add_(self, logits: Tensor) -> None:
        """Append the model's choice to each row. logits: (r, vocabulary)."""
        choices = logits.argmax(dim=-1).tolist()
        for row in self._going_on:
            self.written[row].append(choices[row])
        self._going_on = [row for row in self._going_on if not self._is_finished(self.written[row])]
        # Few words have many tokens; the finished rows should not be computed with them.
        if len(self._going_on) <= len(self.written) * 3 // 4:
            chosen = torch.tensor(self._going_on, dtype=torch.long, device=self._mask.device)
            self.cache.batch_select_indices(chosen)
            self._mask = self._mask[chosen]
            self.written = [self.written[row] for row in self._going_on]
            self._going_on = list(range(len(self.written)))


def _is_whole_word(loaded: LoadedModel, tokens: Sequence[int]) -> bool:
    """Whether the text begins with a whole word followed by something else."""
    text = loaded.tokenizer.decode(tokens)
    if text.endswith("\ufffd"):
        # Half of a character: the rest of its bytes is in the next token.
        return False
    word = _WHOLE_WORD.match(text)
    return word.end() < len(text) if word else bool(text.strip()) or len(tokens) > 1


N_TOP = 5


@dataclass(frozen=True, eq=False)
class TargetScore:
    """Scores of one target: its token ids, the model's choices, and the score of each token.

    top: the model's first choices for the first token.
    """

    target: list[int]
    choices: list[int]
    tokens: tuple[TargetToken, ...]
    top: tuple[Candidate, ...]

    @property
    def first_wrong(self) -> list[int] | None:
        """The model's tokens up to its first wrong one; None where all are right."""
        wrong = (i for i, token in enumerate(self.target) if self.choices[i] != token)
        return next((self.choices[: i + 1] for i in wrong), None)


def target_scores(
    logits: Tensor, targets: Sequence[list[int]], decode: Callable[[list[int]], str]
) -> Iterator[TargetScore]:
    """The score of each target. logits: (n, vocabulary), for the tokens of all targets.

    decode: token ids to text.

    Raises CalibrationError where they are not finite.
    """
    if not bool(logits.isfinite().all()):
        raise CalibrationError(
            "The model's predictions are NaN or infinite.",
            "Remove less, calibrate on more text, or run in float32.",
        )
    tokens = torch.tensor(list(chain.from_iterable(targets)), device=logits.device)
    log_probabilities = logits.log_softmax(dim=-1)
    choices = logits.argmax(dim=-1).tolist()
    of_target = log_probabilities.gather(1, tokens[:, None])
    ranks = (log_probabilities > of_target).sum(dim=1).add_(1).tolist()
    top = log_probabilities.topk(min(N_TOP, logits.shape[1]), dim=-1)
    start = 0
    for target in targets:
        rows = slice(start, start + len(target))
        scored = zip(target, of_target[rows, 0].tolist(), ranks[rows], strict=True)
        first = zip(top.indices[start].tolist(), top.values[start].exp().tolist(), strict=True)
        yield TargetScore(
            target=target,
            choices=choices[rows],
            tokens=tuple(
                TargetToken(text=decode([i]), log_likelihood=value, rank=rank)
                for i, value, rank in scored
            ),
            top=tuple(
                Candidate(text=decode([i]), probability=probability) for i, probability in first
            ),
        )
        start = rows.stop
