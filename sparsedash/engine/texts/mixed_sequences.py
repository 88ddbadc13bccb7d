"""Token sequences of the built-in mixed calibration text, by the shares of its sources."""

from collections.abc import Iterable, Iterator
from itertools import chain

from jinja2.exceptions import TemplateError

from sparsedash.catalog import mixed_text
from sparsedash.catalog.mixed_text import Document, Exchange, TextSource
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.schema.settings import CalibrationSettings

_FIXED_DATE = (
    "{%- macro strftime_now(format) -%}1 January 2026{%- endmacro -%}"
    "{%- set date_string = '1 January 2026' -%}"
)
"""Prepended to every chat template, so that calibration text does not depend on the day."""


def mixed_sequences(
    loaded: LoadedModel, settings: CalibrationSettings
) -> list[list[int]]:
    """Token ids of the mixed text, source after source: at most n_samples * length tokens.

    A larger budget reads the same documents and more. Where a source runs out, all give less, so
    that the shares stay. Packed, the documents of one source are joined and cut again.
    """
    length = min(settings.length, loaded.max_length)
    n_tokens = settings.n_samples * length
    documents_by_source: list[list[list[int]]] = []
    cut_length = None if settings.packed else length
    for source in mixed_text.SOURCES:
        budget = round(source.share * n_tokens)
        tokenized = _tokenized(loaded, source.documents(settings.seed), cut_length)
        documents = list(_until(budget, tokenized))
        documents_by_source.append(documents)
        n_read = sum(map(len, documents))
        if n_read < budget:
            n_tokens = int(n_read / source.share)
    sequences: list[list[int]] = []
    for source, documents in zip(mixed_text.SOURCES, documents_by_source, strict=True):
        chosen = list(_until(round(source.share * n_tokens), documents))
        sequences += packed_sequences(chosen, length) if settings.packed else chosen
    return [sequence for sequence in sequences if len(sequence) >= 2]


def held_out_sequences(
    loaded: LoadedModel,
    source: TextSource,
    n_tokens: int,
) -> list[list[int]]:
    """Token ids of documents that no calibration reads, cut to n_tokens in all."""
    documents = source.held_out()
    length = min(n_tokens // len(documents), loaded.max_length)
    return list(_tokenized(loaded, documents, length))


def packed_sequences(documents: Iterable[list[int]], length: int) -> list[list[int]]:
    """The documents joined and cut into sequences of this length, the last one maybe shorter."""
    ids = list(chain.from_iterable(documents))
    return [ids[start : start + length] for start in range(0, len(ids), length)]


def _until(n_tokens: int, documents: Iterable[list[int]]) -> Iterator[list[int]]:
    """The first documents, with n_tokens in all: the last one is cut."""
    for document in documents:
        if n_tokens <= 0:
            return
        yield document[:n_tokens]
        n_tokens -= len(document)


def _tokenized(
    loaded: LoadedModel, documents: Iterable[Document], length: int | None
) -> Iterator[list[int]]:
    for document in documents:
        text = document if isinstance(document, str) else _rendered(loaded, document)
        yield loaded.tokens(text)[:length]


def _rendered(loaded: LoadedModel, exchange: Exchange) -> str:
    """The exchange in the model's chat template; plain if it has none that can be used.

    Part of every key by way of the model's identity, which covers the template.
    """
    if not loaded.tokenizer.chat_template:
        return exchange.plain
    messages = [
        {"role": "user", "content": exchange.instruction},
        {"role": "assistant", "content": exchange.reply},
    ]
    try:
        template = _FIXED_DATE + loaded.tokenizer.get_chat_template()
        text = loaded.tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False
        )
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return exchange.plain
    return str(text)
