"""llama.cpp's base files: the tokens of a text and a model's log-probabilities after them, as
`llama-perplexity --save-all-logits` (or --kl-divergence-base) writes them; and what it prints with
--kl-divergence.

A base file: "_logits_", then n_ctx, n_vocab, n_chunk and the tokens as 32-bit integers; then of each
chunk the positions of its second half, each a scale and an offset (float32) and the log-probabilities
as unsigned 16-bit multiples of the scale above the offset. Log-probabilities more than 16 nats below
the first choice's are stored as if they were 16 below.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sparsedash.schema.errors import CorpusError, first_line

_MAGIC = b"_logits_"
_HEADER_BYTES = 20
_MAX_VOCABULARY = 1_000_000
_MAX_CONTEXT = 1_000_000
_MAX_GAP = 15.9999
"""Nats below the first choice from which a log-probability may have been cut off."""
_PADDING = 4
"""Values before those of a row that hold its scale and offset."""
_ROWS_VALUES = 2**23
"""Values that are in memory at the same time, of each file."""
_PRINTED = "KL divergence statistics"
_MAX_PRINTED_BYTES = 50_000_000
_NUMBER = r"(-?(?:\d+\.\d+|nan|inf))"
_LINE = re.compile(
    rf"^\s*(\S.*?)\s*:\s*{_NUMBER}\s*%?(?:\s*±\s*{_NUMBER})?\s*%?\s*$", re.MULTILINE
)


@dataclass(frozen=True, kw_only=True)
class LogitFile:
    """A base file. tokens: (n_chunk, n_ctx)."""

    path: Path
    n_vocab: int
    tokens: npt.NDArray[np.int32]

    @property
    def n_rows(self) -> int:
        """Positions of each chunk with log-probabilities."""
        n_ctx = self.tokens.shape[1]
        return int(n_ctx - 1 - n_ctx // 2)

    @property
    def row_values(self) -> int:
        """16-bit values of a position."""
        return 2 * ((self.n_vocab + 1) // 2) + _PADDING


@dataclass(frozen=True, kw_only=True)
class LogitRows:
    """Some positions of a chunk. base, changed: (n, v) log-probabilities. targets: (n,) the tokens
    that follow. n_cut: how many of these are so unlikely by the changed model that its file cuts
    them off.
    """

    chunk: int
    base: npt.NDArray[np.float32]
    changed: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int32]
    n_cut: int


def is_logit_file(path: Path) -> bool:
    """Whether a file begins as llama.cpp's base files do."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_MAGIC)) == _MAGIC


def read_logit_file(path: Path) -> LogitFile:
    """The header and tokens of a base file. Raises CorpusError."""
    try:
        with path.open("rb") as stream:
            header = stream.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
                raise CorpusError(f"{path.name} is no base file of llama.cpp.")
            n_ctx, n_vocab, n_chunk = map(
                int, np.frombuffer(header, "<i4", offset=len(_MAGIC))
            )
            size = path.stat().st_size
            row_values = 2 * ((n_vocab + 1) // 2) + _PADDING
            needed = _HEADER_BYTES + n_chunk * (
                4 * n_ctx + 2 * (n_ctx - 1 - n_ctx // 2) * row_values
            )
            is_possible = 3 <= n_ctx <= _MAX_CONTEXT and 1 <= n_vocab <= _MAX_VOCABULARY
            if not is_possible or n_chunk < 1 or size < needed:
                raise CorpusError(f"{path.name} is cut off, or its header is damaged.")
            tokens = np.frombuffer(stream.read(4 * n_ctx * n_chunk), "<i4")
    except OSError as error:
        raise CorpusError(
            f"{path.name} could not be read: {first_line(error)}."
        ) from error
    if tokens.min() < 0 or tokens.max() >= n_vocab:
        raise CorpusError(f"{path.name} has tokens that are not in its vocabulary.")
    return LogitFile(path=path, n_vocab=n_vocab, tokens=tokens.reshape(n_chunk, n_ctx))


def paired_rows(base: LogitFile, other: LogitFile) -> Iterator[LogitRows]:
    """The positions of two base files, a few at a time. Raises CorpusError where these are of other
    texts or vocabularies.
    """
    if base.n_vocab != other.n_vocab:
        raise CorpusError(
            f"{base.path.name} has {base.n_vocab:,} tokens in its vocabulary and {other.path.name} {other.n_vocab:,}.",
            "Models with other tokenizers cannot be compared token by token.",
        )
    if base.tokens.shape != other.tokens.shape:
        raise CorpusError(
            f"{base.path.name} has {base.tokens.size:,} tokens of text and {other.path.name} {other.tokens.size:,}.",
            "Write both with the same text, context and number of chunks.",
        )
    n_other = int((base.tokens != other.tokens).sum())
    if n_other:
        raise CorpusError(
            f"{n_other:,} of {base.tokens.size:,} tokens differ: the files are of other texts."
        )
    n_chunk, n_ctx = base.tokens.shape
    n_together = max(1, _ROWS_VALUES // base.row_values)
    first = n_ctx // 2
    with base.path.open("rb") as base_stream, other.path.open("rb") as other_stream:
        for stream in (base_stream, other_stream):
            stream.seek(_HEADER_BYTES + 4 * base.tokens.size)
        for chunk in range(n_chunk):
            for start in range(0, base.n_rows, n_together):
                n = min(n_together, base.n_rows - start)
                place = first + start + 1
                targets = base.tokens[chunk, place : place + n]
                changed = _log_probabilities(
                    other, other_stream.read(2 * n * other.row_values)
                )
                gaps = changed.max(axis=1) - changed[np.arange(n), targets]
                yield LogitRows(
                    chunk=chunk,
                    base=_log_probabilities(
                        base, base_stream.read(2 * n * base.row_values)
                    ),
                    changed=changed,
                    targets=targets,
                    n_cut=int((gaps > _MAX_GAP).sum()),
                )


def _log_probabilities(file: LogitFile, content: bytes) -> npt.NDArray[np.float32]:
    values = np.frombuffer(content, "<u2").reshape(-1, file.row_values)
    scale, offset = np.ascontiguousarray(values[:, :_PADDING]).view("<f4").T
    multiples = values[:, _PADDING : _PADDING + file.n_vocab].astype(np.float32)
    rows: npt.NDArray[np.float32] = multiples * scale[:, None] + offset[:, None]
    if not np.isfinite(rows).all():
        raise CorpusError(
            f"{file.path.name} has log-probabilities that are not finite."
        )
    return rows


def printed_divergence(path: Path) -> dict[str, tuple[float, float | None]] | None:
    """The figures with their errors that llama-perplexity printed into a file, by their names there;
    None where the file holds none. Raises CorpusError.
    """
    if not path.is_file() or path.stat().st_size > _MAX_PRINTED_BYTES:
        return None
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise CorpusError(
            f"{path.name} could not be read: {first_line(error)}."
        ) from error
    if _PRINTED not in text:
        return None
    figures = {}
    for name, value, doubt in _LINE.findall(text):
        figures[" ".join(name.split())] = (
            float(value),
            float(doubt) if doubt else None,
        )
    return figures
