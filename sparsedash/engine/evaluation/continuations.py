"""Log-likelihoods of given continuations by one or several models.

Requests with the same context share its KV cache, where the model has a plain one. Streamed weights
are read once for all models, and for several batches.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch
from transformers import Cache, DynamicCache

from sparsedash.catalog.resources import BATCH_TOKENS, CACHE_BYTES, TOGETHER_TOKENS
from sparsedash.engine.evaluation.side_by_side import model_groups, reading
from sparsedash.engine.models.decoder_blocks import (
    Applied,
    Batch,
    BlockWalk,
    PreallocatedLayer,
    head_sees_only,
    n_fitting,
)
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.errors import CalibrationError, CorpusError

_LOGITS = 2**25
"""Logits that are computed at once: those of a whole batch would take gigabytes with a large
vocabulary.
"""
Request = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context, and of the continuation that is scored after it; neither is empty."""

OnAnswered = Callable[[int], None]
"""Called with the number of requests answered so far, of all models together; may raise."""


@dataclass(slots=True)
class Scored:
    """Log-likelihood of a continuation, and whether each of its tokens is the model's first choice.

    first: the first choices, each after the continuation's own tokens before it.
    """

    log_likelihood: float = 0.0
    greedy: bool = True
    first: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Row:
    """Tokens of one row. wanted: at each column, tokens to score and the requests they belong to.

    tails: rows that are read after this one, on its keys and values. n_requests: answered once all
    these are read.
    """

    tokens: tuple[int, ...]
    wanted: dict[int, list[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    tails: "list[_Row]" = field(default_factory=list)
    n_requests: int = 0

    def want(self, column: int, tokens: Sequence[int], request: int) -> None:
        """Score these tokens, the first of them at this column."""
        for i, token in enumerate(tokens):
            self.wanted[column + i].append((token, request))


_RowBatch = tuple[list[_Row], Batch]


@torch.inference_mode()
def score_continuations(
    loaded: LoadedModel,
    models: Sequence[Applied],
    requests: Sequence[Request],
    on_answered: OnAnswered,
) -> list[list[Scored]]:
    """The scores of every request by each model. A context that is too long loses its beginning.

    Raises CorpusError for a continuation that is longer than the model can read, CalibrationError
    where predictions are not finite.
    """
    streamed = loaded.residency.streamed
    rows = _rows(
        requests, loaded.max_length, share=loaded.has_plain_cache and not streamed
    )
    batches: list[_RowBatch] = []
    for places, batch in loaded.batches([row.tokens for row in rows], BATCH_TOKENS):
        batches.append(([rows[place] for place in places], batch))
    scores = list[list[Scored]]()
    for _ in models:
        scores.append([Scored() for _ in requests])
    n_answered = 0
    for numbers in model_groups(loaded, models):
        with reading(loaded, models, numbers) as inside:
            for together in _batch_groups(batches, len(numbers), streamed=streamed):
                _score_(
                    loaded,
                    inside,
                    [scores[number] for number in numbers],
                    together,
                    partial(on_answered, n_answered),
                )
                for batch_rows, _ in together:
                    n_answered += len(numbers) * sum(
                        row.n_requests for row in batch_rows
                    )
                on_answered(n_answered)
                loaded.residency.drop()
    return scores


def _batch_groups(
    batches: Sequence[_RowBatch], n_models: int, *, streamed: bool
) -> Iterator[Sequence[_RowBatch]]:
    """Batches that are read together: in memory one at a time."""
    waiting = batches
    while waiting:
        n = 1
        if streamed:
            sizes = (n_models * batch.ids.numel() for _, batch in waiting)
            n = n_fitting(sizes, TOGETHER_TOKENS)
        yield waiting[:n]
        waiting = waiting[n:]


def _rows(requests: Sequence[Request], max_length: int, *, share: bool) -> list[_Row]:
    """Rows to read, each once. share: read a context by itself if several continuations follow."""
    by_context = defaultdict[tuple[int, ...], list[int]](list)
    for number, (context, continuation) in enumerate(requests):
        if len(continuation) > max_length:
            raise CorpusError(
                f"A continuation of {len(continuation):,} tokens is longer than the model can read."
            )
        fits = len(context) + len(continuation) <= max_length
        # A single token costs less to read again than to keep.
        if share and fits and len(context) > 1:
            by_context[tuple(context)].append(number)
        else:
            by_context[(*context, -number - 1)].append(number)
    shared: list[_Row] = []
    single: dict[tuple[int, ...], _Row] = {}
    for context, numbers in by_context.items():
        continuations = {number: requests[number][1] for number in numbers}
        if (
            len({tuple(continuation[:-1]) for continuation in continuations.values()})
            > 1
        ):
            shared.append(_shared_row(context, continuations))
            continue
        for number, continuation in continuations.items():
            tokens = (*requests[number][0], *continuation)[-max_length - 1 :][:-1]
            row = single.setdefault(tokens, _Row(tokens))
            row.want(len(tokens) - len(continuation), continuation, number)
            row.n_requests += 1
    return [*shared, *single.values()]


def _shared_row(
    context: tuple[int, ...], continuations: Mapping[int, Sequence[int]]
) -> _Row:
    """The row of a context, followed by what differs. continuations: by their requests."""
    beginnings = {tuple(continuation[:-1]) for continuation in continuations.values()}
    tails = {
        beginning: _Row(beginning) for beginning in sorted(beginnings) if beginning
    }
    row = _Row(context, tails=list(tails.values()), n_requests=len(continuations))
    for number, continuation in continuations.items():
        row.want(len(context) - 1, continuation[:1], number)
        if len(continuation) > 1:
            tails[tuple(continuation[:-1])].want(0, continuation[1:], number)
    return row


def _score_(
    loaded: LoadedModel,
    inside: Sequence[Applied],
    scores: Sequence[list[Scored]],
    batches: Sequence[_RowBatch],
    on_block: Callable[[], None],
) -> None:
    """Read these batches as each of the models, and add to the models' scores, in place."""
    reads = []
    for rows, batch in batches:
        for applied, model_scores in zip(inside, scores, strict=True):
            reads.append((applied, model_scores, rows, batch))
    all_rows = chain.from_iterable(rows for rows, _ in batches)
    has_tails = any(row.tails for row in all_rows)
    caches = [DynamicCache() for _ in reads] if has_tails else []
    walk = loaded.walk([batch for *_, batch in reads], caches)
    walk.run([applied for applied, *_ in reads], lambda _: on_block())
    for number, (_, model_scores, rows, _) in enumerate(reads):
        _add_scores_(loaded, walk, number, rows, model_scores)
        if has_tails:
            _score_tails_(loaded, rows, caches[number], model_scores, on_block)


def _score_tails_(
    loaded: LoadedModel,
    rows: Sequence[_Row],
    cache: Cache,
    scores: list[Scored],
    on_block: Callable[[], None],
) -> None:
    """Read the tails of these rows from their KV cache, and add to the scores, in place."""
    waiting = []
    for number, row in enumerate(rows):
        waiting += [(number, tail) for tail in row.tails]
    waiting.sort(key=lambda pair: -len(pair[1].tokens))
    longest = max((len(row.tokens) for row in rows if row.tails), default=0)
    while waiting:
        n_new = len(waiting[0][1].tokens)
        row_bytes = loaded.cache_per_token * (longest + n_new)
        n = max(1, min(BATCH_TOKENS // n_new, CACHE_BYTES // row_bytes))
        # Each row has room in the model's context; padded to the longest, all must have (the mask
        # of GPT-Neo).
        while (
            max(len(rows[number].tokens) for number, _ in waiting[:n]) + n_new
            > loaded.max_length
        ):
            n -= 1
        by_length = defaultdict[int, list[tuple[int, _Row]]](list)
        for number, tail in waiting[:n]:
            by_length[len(rows[number].tokens)].append((number, tail))
        _score_tail_batch_(loaded, by_length, cache, scores, on_block)
        waiting = waiting[n:]


def _score_tail_batch_(
    loaded: LoadedModel,
    parts: Mapping[int, Sequence[tuple[int, _Row]]],
    cache: Cache,
    scores: list[Scored],
    on_block: Callable[[], None],
) -> None:
    """One batch of tails. parts: tails and places in the cache, by tokens read before."""
    device = loaded.model.device
    tails: list[_Row] = []
    lengths: list[int] = []
    for length, part in parts.items():
        tails += [tail for _, tail in part]
        lengths += [length] * len(part)
    longest = max(parts)
    n_new = max(len(tail.tokens) for tail in tails)
    tail_cache = DynamicCache()
    for layer in cache.layers:
        ending = []
        for length, part in parts.items():
            places = [number for number, _ in part]
            ending.append(
                (layer.keys[places, :, :length], layer.values[places, :, :length])
            )
        tail_cache.layers.append(PreallocatedLayer.right_aligned(ending, n_new))
    before = torch.tensor(lengths, device=device)[:, None]
    columns = torch.arange(longest + n_new, device=device)
    inputs = {
        # What is padded on the right no real token sees.
        "attention_mask": (columns >= longest - before).long(),
        # A padded column may lie beyond the model's table of positions.
        "position_ids": (before + columns[:n_new]).clamp(max=loaded.max_length - 1),
    }
    pad = loaded.tokenizer.pad_token_id or 0
    padded = [[*tail.tokens, *[pad] * (n_new - len(tail.tokens))] for tail in tails]
    ids = torch.tensor(padded, device=device)
    walk = loaded.walk([Batch(ids, inputs["attention_mask"], inputs)], [tail_cache])
    walk.run([nullcontext], lambda _: on_block())
    _add_scores_(loaded, walk, 0, tails, scores)


def _add_scores_(
    loaded: LoadedModel,
    walk: BlockWalk,
    number: int,
    rows: Sequence[_Row],
    scores: list[Scored],
) -> None:
    """Add the scores of the tokens that a batch's rows want, in place; it is past its last block."""
    device = loaded.model.device
    places = []
    for row_number, row in enumerate(rows):
        places += [
            (row_number, column, wanted) for column, wanted in row.wanted.items()
        ]
    n_at_once = max(1, _LOGITS // loaded.model.get_input_embeddings().weight.shape[0])
    for start in range(0, len(places), n_at_once):
        chunk = places[start : start + n_at_once]
        row_numbers = torch.tensor([place[0] for place in chunk], device=device)
        columns = torch.tensor([place[1] for place in chunk], device=device)
        with head_sees_only(loaded.model, row_numbers, columns):
            logits = walk.output(loaded.model, number).logits.float()
        normaliser = logits.logsumexp(dim=-1)
        choices = logits.argmax(dim=-1).tolist()
        if not bool(normaliser.isfinite().all()):
            raise CalibrationError(
                "The model's predictions are NaN or infinite.",
                "Remove less, or run in float32.",
            )
        wanted_tokens = []
        for line, (*_, wanted) in enumerate(chunk):
            wanted_tokens += [(line, token, request) for token, request in wanted]
        lines = torch.tensor([line for line, *_ in wanted_tokens], device=device)
        tokens = torch.tensor([token for _, token, _ in wanted_tokens], device=device)
        log_likelihoods = (logits[lines, tokens] - normaliser[lines]).tolist()
        for (line, token, request), value in zip(
            wanted_tokens, log_likelihoods, strict=True
        ):
            score = scores[request]
            score.log_likelihood += min(0.0, value)
            score.greedy &= choices[line] == token
            score.first.append(choices[line])
