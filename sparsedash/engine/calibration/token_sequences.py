"""Calibration text as the model reads it: sequences of token ids."""

from collections.abc import Sequence
from random import Random

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.corpora import Texts
from sparsedash.schema.settings import CalibrationSettings


def calibration_sequences(loaded: LoadedModel, texts: Texts, settings: CalibrationSettings) -> list[list[int]]:
    """Token ids of the calibration text: documents in an order drawn by the seed, at most n_samples * length tokens.

    A long document is cut to `length`, a short one stays short, so that each begins as evaluated passages begin;
    packed, what is chosen so is joined and cut again. A running text is joined first and cut into pieces of `length`.
    """
    length = min(settings.length, loaded.max_length)
    budget = settings.n_samples * length
    pieces: list[str] | list[list[int]] = list(texts.texts)
    if texts.running:
        pieces = _pieces(loaded, "\n\n".join(texts.texts), length)
    Random(settings.seed).shuffle(pieces)
    chosen: list[list[int]] = []
    for piece in pieces:
        ids = loaded.tokens(piece) if isinstance(piece, str) else piece
        ids = ids[: min(length, budget)]
        if len(ids) >= 2:
            chosen.append(ids)
            budget -= len(ids)
        if budget < 2:
            break
    return _packed(chosen, length) if settings.packed else chosen


def first_tokens(sequences: Sequence[list[int]], n_tokens: int) -> list[list[int]]:
    """As many of the first sequences as hold n_tokens together; one at least."""
    chosen: list[list[int]] = []
    for ids in sequences:
        if chosen and sum(map(len, chosen)) + len(ids) > n_tokens:
            break
        chosen.append(ids)
    return chosen


def _pieces(loaded: LoadedModel, text: str, length: int) -> list[list[int]]:
    ids = loaded.tokens(text)
    return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)] or [ids]


def _packed(sequences: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """The same tokens in sequences of `length`; a shorter last one stays where it has something to predict."""
    ids = [token for own in sequences for token in own]
    pieces = [ids[i : i + length] for i in range(0, len(ids), length)]
    return [piece for piece in pieces if len(piece) >= 2]
