"""Answers of a model: scores of the target tokens, and greedy decoding of wrong words."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from sparsedash.engine.models.decoder_blocks import Applied, Batch, PreallocatedLayer
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.next_logits import last_logits
from sparsedash.schema.errors import CalibrationError
from sparsedash.schema.progress import ignore
from sparsedash.schema.records import Candidate, TargetToken

MAX_MORE_TOKENS = 12
"""A longer word is shown cut off."""

IsFinished = Callable[[Sequence[int]], bool]
"""Whether an answer of these tokens is finished."""

_WHOLE_WORD = re.compile(r"^\s*[\w'’\-]+")


@dataclass(frozen=True, eq=False)
class UnfinishedAnswers:
    """Unfinished answers after the same number of tokens, with their KV cache, if there is one.

    applied: context in which the loaded model writes them. contexts: the tokens before each.
    written: the tokens of each so far; finishing adds to them.
    layers: of each, keys and values (r, heads, t, e); none where texts are read whole.
    """

    applied: Applied
    contexts: list[Sequence[int]] = field(default_factory=list)
    written: list[list[int]] = field(default_factory=list)
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def unfinished_answers(
    loaded: LoadedModel,
    applied: Applied,
    cache: Cache | None,
    contexts: Sequence[Sequence[int]],
    begun: Sequence[list[int] | None],
    is_finished: IsFinished | None = None,
) -> list[UnfinishedAnswers]:
    """The answers that are not finished, grouped by the number of tokens read.

    cache: of the batch just read; emptied. contexts: the tokens of each row's context. begun: the
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
                len(contexts[row]) + len(tokens) - 1, ([], UnfinishedAnswers(applied))
            )
            rows.append(row)
            part.contexts.append(contexts[row])
            part.written.append(tokens)
    while cache is not None and cache.layers:
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
    on_left: Callable[[float], None] = ignore,
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
        next_logits = _next_logits(loaded, decodings, on_block)
        for decoding, logits in zip(decodings, next_logits, strict=True):
            decoding.add_(logits)
        decodings = [decoding for decoding in decodings if decoding.written]


def _next_logits(
    loaded: LoadedModel,
    decodings: Sequence["_Decoding"],
    on_block: Callable[[int], None],
) -> Iterator[Tensor]:
    """Logits (r, vocabulary) of the next token of each decoding's answers."""
    caches: list[Cache] = []
    batches: list[Batch] = []
    texts: list[list[int]] = []
    inside: list[Applied] = []
    for decoding in decodings:
        if decoding.cached is None:
            for context, answer in zip(
                decoding.contexts, decoding.written, strict=True
            ):
                texts.append([*context, *answer])
                inside.append(decoding.applied)
        else:
            caches.append(decoding.cached.cache)
            batches.append(
                decoding.cached.next_batch([answer[-1] for answer in decoding.written])
            )
    if texts:
        logits = last_logits(loaded, texts, inside, on_block)
        yield from torch.split(
            logits, [len(decoding.written) for decoding in decodings]
        )
        return
    walk = loaded.walk(batches, caches)
    walk.run([decoding.applied for decoding in decodings], on_block)
    for number in range(len(decodings)):
        yield walk.output(loaded.model, number).logits[:, -1]


def first_word(loaded: LoadedModel, tokens: Sequence[int]) -> str:
    """The first word of these tokens, as it is shown."""
    text = loaded.tokenizer.decode(tokens).rstrip("\ufffd")
    if not text:
        return "(part of a character)"
    word = _WHOLE_WORD.match(text)
    return word.group() if word else text.strip()[:1]


class _AnswerCache:
    """The keys and values of answers (r), with one mask (r, t); the parts give theirs up.

    Rows are left-padded, for sliding windows. Positions are in the keys already, or are counted
    from the mask.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        parts: Sequence[UnfinishedAnswers],
        n_more: int,
    ) -> None:
        lengths = list[int]()
        for part in parts:
            lengths += [part.layers[0][0].shape[2]] * len(part.written)
        self.cache = DynamicCache()
        for _ in range(len(parts[0].layers)):
            # Layer by layer, as above; and dropped, since the next one is as large and finds no
            # room in the gaps.
            layers = [part.layers.pop(0) for part in parts]
            hold = loaded.residency.offload_all
            self.cache.layers.append(
                PreallocatedLayer.right_aligned(layers, n_more, hold)
            )
            loaded.residency.drop()
        columns = torch.arange(max(lengths), device=self.cache.layers[0].device)
        self._mask = (
            columns
            >= max(lengths) - torch.tensor(lengths, device=columns.device)[:, None]
        ).long()

    def next_batch(self, last_tokens: Sequence[int]) -> Batch:
        """The last token of each row, as the next input of the model."""
        ids = torch.tensor(last_tokens, device=self._mask.device)[:, None]
        positions = self._mask.sum(dim=1, keepdim=True)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        inputs = {"attention_mask": self._mask, "position_ids": positions}
        return Batch(ids, self._mask, inputs)

    def keep_(self, rows: Sequence[int]) -> None:
        """Keep these rows."""
        chosen = torch.tensor(rows, dtype=torch.long, device=self._mask.device)
        self.cache.batch_select_indices(chosen)
        self._mask = self._mask[chosen]


class _Decoding:
    """Batched decoding of one model's answers.

    contexts, written: the tokens before each answer, and of each; none when all are finished.
    cached: what the model keeps of them; None where it reads whole texts.
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
        self.contexts = list(chain.from_iterable(part.contexts for part in parts))
        self.written = list(chain.from_iterable(part.written for part in parts))
        self._going_on = list(range(len(self.written)))
        self.cached: _AnswerCache | None = None
        if loaded.has_plain_cache:
            self.cached = _AnswerCache(loaded, parts, n_more)

    @property
    def n_left(self) -> int:
        """Answers that are not finished."""
        return len(self._going_on)

    def add_(self, logits: Tensor) -> None:
        """Append the model's choice to each row. logits: (r, vocabulary)."""
        choices = logits.argmax(dim=-1).tolist()
        for row in self._going_on:
            self.written[row].append(choices[row])
        self._going_on = [
            row for row in self._going_on if not self._is_finished(self.written[row])
        ]
        # Few words have many tokens; the finished rows should not be computed with them.
        if len(self._going_on) <= len(self.written) * 3 // 4:
            if self.cached is not None:
                self.cached.keep_(self._going_on)
            self.contexts = [self.contexts[row] for row in self._going_on]
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
        first = zip(
            top.indices[start].tolist(), top.values[start].exp().tolist(), strict=True
        )
        yield TargetScore(
            target=target,
            choices=choices[rows],
            tokens=tuple(
                TargetToken(text=decode([i]), log_likelihood=value, rank=rank)
                for i, value, rank in scored
            ),
            top=tuple(
                Candidate(text=decode([i]), probability=probability)
                for i, probability in first
            ),
        )
        start = rows.stop
