"""The built-in mixed calibration text, `builtin:mixed`: its sources and their shares. One row adds
a source.

A cut keeps the abilities that its calibration text has: see docs/adr/0061.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from sparsedash.catalog.drawn_text import (
    COPIES,
    EXAMPLES,
    STRUCTURES,
    SUMS,
    TABLES,
    Draw,
    draw_document,
)
from sparsedash.schema.plain_values import digest

_TEXTS = Path(__file__).parent / "texts"
_N_HELD_OUT = 4
"""Documents of each source that no calibration reads: divergence by kind of text is measured on
them.
"""

_N_CHARACTERS = 900
"""Of a drawn document: some 256 to 400 tokens."""


class Exchange(NamedTuple):
    """An instruction and its reply, for the model's own chat template."""

    instruction: str
    reply: str

    @property
    def plain(self) -> str:
        """The exchange as text, for models without a template."""
        return f"{self.instruction}\n\n{self.reply}"


Document = str | Exchange


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A kind of text. share: of the mixed text's tokens. Either file, of documents, or draws, which
    never run out.
    """

    name: str
    title: str
    share: float
    file: str = ""
    draws: Sequence[Draw] = ()

    def documents(self, seed: int) -> Iterator[Document]:
        """The documents of a calibration, in an order drawn by the seed."""
        if self.draws:
            return self._drawn(f"{self.name} {seed}")
        documents = list(_read(self.file)[_N_HELD_OUT:])
        Random(seed).shuffle(documents)
        return iter(documents)

    def held_out(self) -> list[Document]:
        """The documents that no calibration reads."""
        if self.draws:
            return list(islice(self._drawn(f"{self.name} held out"), _N_HELD_OUT))
        return list(_read(self.file)[:_N_HELD_OUT])

    def _drawn(self, seed: str) -> Iterator[str]:
        random = Random(seed)
        for _ in count():
            yield draw_document(self.draws, random, _N_CHARACTERS)


SOURCES = (
    TextSource(name="stories", title="Stories", share=0.54, file="smollm2-text.jsonl"),
    TextSource(name="fiction", title="Fiction", share=0.08, file="fiction.jsonl"),
    TextSource(name="prose", title="Plain prose", share=0.04, file="prose.jsonl"),
    TextSource(name="sums", title="Sums and counting", share=0.06, draws=SUMS),
    TextSource(name="copies", title="Copying and lists", share=0.05, draws=COPIES),
    TextSource(name="examples", title="Worked examples", share=0.11, draws=EXAMPLES),
    TextSource(name="code", title="Code", share=0.02, file="code.jsonl"),
    TextSource(
        name="structures",
        title="Brackets and indentation",
        share=0.04,
        draws=STRUCTURES,
    ),
    TextSource(name="tables", title="Tables and JSON", share=0.02, draws=TABLES),
    TextSource(
        name="questions",
        title="Questions with answers",
        share=0.02,
        file="questions.jsonl",
    ),
    TextSource(
        name="instructions",
        title="Instructions with replies",
        share=0.02,
        file="instructions.jsonl",
    ),
)


def source_title(name: str) -> str:
    """The title of a source; the name of one that is no longer in the mix."""
    return next((source.title for source in SOURCES if source.name == name), name)


def mixed_documents() -> list[str]:
    """All documents of the sources in files, and as many drawn ones, without a chat template."""
    texts: list[str] = []
    for source in SOURCES:
        for document in islice(source.documents(0), 64):
            texts.append(document if isinstance(document, str) else document.plain)
    return texts


@cache
def mixed_identity() -> str:
    """Identity of the mixed text.

    The chat template that renders its exchanges is part of the model's identity.
    """
    parts = [
        [source.name, source.share, list(islice(source.documents(0), 64))]
        for source in SOURCES
    ]
    return f"mixed:{digest(parts)}"


@cache
def _read(file: str) -> tuple[Document, ...]:
    rows = [
        json.loads(line) for line in (_TEXTS / file).read_text("utf-8").splitlines()
    ]
    return tuple(
        row["text"] if "text" in row else Exchange(row["user"], row["assistant"])
        for row in rows
    )
