"""Text sets for calibration and evaluation, by reference. One row adds a corpus of the hub.

A small one is downloaded whole, once, into the local cache of `datasets`. Of a big one only the first texts are streamed,
always as many, and kept beside it: either way a text set that was read once can be read without the network.

References: a name in the table, `builtin:cloze`, or `file:PATH` (.jsonl with a `text` field, .txt, .parquet with a `text`
column), optionally with a slice of its texts: `file:PATH[3600:]`. `self`, text sampled from the model, is made by the pipeline.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import datasets
import pyarrow.parquet as parquet
from datasets import load_dataset

from sparsedash.catalog import BUILTIN_CLOZE
from sparsedash.engine.hub import HTTPError, reachable
from sparsedash.engine.identity import texts_identity
from sparsedash.errors import CorpusError

TEXTS = Path(__file__).parent.parent / "texts"

_SLICE = re.compile(r"^(?P<path>.+?)(?:\[(?P<start>\d*):(?P<stop>\d*)\])?$", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class HubCorpus:
    """A text set on the hub, read through `datasets`.

    running: its rows are parts of one running text rather than documents of their own.
    n_streamed: how many rows are streamed from the front of one that is too big to download; None: it is downloaded.
    """

    path: str
    config: str | None = None
    split: str
    column: str = "text"
    running: bool = False
    n_streamed: int | None = None


CORPORA: dict[str, HubCorpus] = {
    "lambada_openai": HubCorpus(path="EleutherAI/lambada_openai", config="default", split="test"),
    "lambada": HubCorpus(path="cimec/lambada", config="plain_text", split="test"),
    "lambada-validation": HubCorpus(path="cimec/lambada", config="plain_text", split="validation"),
    "lambada-train": HubCorpus(path="cimec/lambada", config="plain_text", split="train"),
    "pile-10k": HubCorpus(path="NeelNanda/pile-10k", split="train"),
    "the_pile": HubCorpus(path="monology/pile-uncopyrighted", split="train", n_streamed=10_000),
    "c4": HubCorpus(path="allenai/c4", config="en", split="train", n_streamed=10_000),
    "wikitext-2": HubCorpus(
        path="Salesforce/wikitext", config="wikitext-2-raw-v1", split="train", running=True
    ),
}


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts in their order, and what tells these apart from others. running: see HubCorpus."""

    texts: tuple[str, ...]
    identity: str
    running: bool = False


def read_texts(reference: str, limit: int | None = None) -> Texts:
    """The texts behind a reference, at most `limit` from the front.

    Raises CorpusError: unknown name, missing or unreadable file, hub unreachable and nothing in the local cache.
    """
    if reference == BUILTIN_CLOZE:
        found, running = list(_json_lines(TEXTS / "cloze.jsonl")), False
    elif reference.startswith("file:"):
        found, running = _read_file(reference.removeprefix("file:"))
    elif reference in CORPORA:
        found, running = _read_hub(reference, CORPORA[reference], limit), CORPORA[reference].running
    else:
        names = ", ".join([BUILTIN_CLOZE, *sorted(CORPORA)])
        raise CorpusError(f"There is no text set {reference!r}; possible: {names}, file:PATH.")
    texts = tuple(text for text in found if text.strip())[:limit]
    if not texts:
        raise CorpusError(f"{reference} holds no text.", "Name another text set.")
    return Texts(texts=texts, identity=texts_identity(texts), running=running)


def openings() -> tuple[str, ...]:
    """Short story openings that lead the model into the right register when it writes its own calibration text."""
    return tuple(_json_lines(TEXTS / "openings.jsonl"))


def _read_file(reference: str) -> tuple[list[str], bool]:
    match = _SLICE.match(reference)
    assert match is not None
    path = Path(match["path"]).expanduser()
    if not path.is_file():
        raise CorpusError(f"There is no file {path}.", "Check the path after file:")
    chosen = slice(*(int(end) if end else None for end in (match["start"], match["stop"])))
    match path.suffix:
        case ".jsonl":
            return list(_json_lines(path))[chosen], False
        case ".txt":
            return re.split(r"\n\s*\n", _read(path))[chosen], True
        case ".parquet":
            return _read_parquet(path)[chosen], False
        case _:
            raise CorpusError(
                f"{path.name} is not of a kind that can be read; possible: .jsonl, .txt, .parquet."
            )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"{path} could not be read: {error}.", "It must be UTF-8 text."
        ) from error


def _json_lines(path: Path) -> Iterable[str]:
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise CorpusError(
                f"Line {number} of {path.name} is not a JSON object with a text field.",
                'Write one object a line: {"text": "..."}.',
            )
        yield text


def _read_parquet(path: Path) -> list[str]:
    try:
        column = parquet.read_table(path, columns=["text"]).column("text")
    except (OSError, ValueError, KeyError) as error:
        raise CorpusError(
            f"{path.name} could not be read: {error}", "It needs a column named text."
        ) from error
    values: list[str] = column.to_pylist()
    if not all(isinstance(value, str) for value in values):
        raise CorpusError(f"The column text of {path.name} holds something that is not text.")
    return values


def _read_hub(name: str, corpus: HubCorpus, limit: int | None) -> list[str]:
    try:
        if corpus.n_streamed is None:
            with _offline_unless_reachable():
                rows = load_dataset(corpus.path, corpus.config, split=corpus.split)
            return [row[corpus.column] for row in islice(rows, limit)]
        kept = _kept_stream(corpus)
        if not kept.is_file():
            _write_whole(kept, _stream(corpus))
        return list(islice(_json_lines(kept), limit))
    except ConnectionError as error:
        raise CorpusError(
            f"{name} is not in the local cache, and the hub cannot be reached.",
            f"Connect to the network once, use file:PATH, or {BUILTIN_CLOZE}.",
        ) from error
    except (OSError, ValueError, KeyError, HTTPError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise CorpusError(
            f"{name} could not be read from the hub: {first}",
            "Start again when the hub answers; a gated text set needs the hub's token in HF_TOKEN.",
        ) from error


def _stream(corpus: HubCorpus) -> Iterable[str]:
    with _offline_unless_reachable():
        rows = load_dataset(corpus.path, corpus.config, split=corpus.split, streaming=True)
    return (row[corpus.column] for row in islice(rows, corpus.n_streamed))


@contextmanager
def _offline_unless_reachable() -> Iterator[None]:
    """Inside, `datasets` goes straight to its cache where the hub does not answer.

    By itself it would ask again and again, for more than a minute, before it looks there.
    """
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or not reachable()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _kept_stream(corpus: HubCorpus) -> Path:
    """Where the streamed texts are kept: in the local cache of `datasets`, which has no such place itself."""
    parts = (corpus.path.replace("/", "--"), corpus.config, corpus.split, corpus.n_streamed)
    name = "-".join(str(part) for part in parts if part) + ".jsonl"
    return Path(datasets.config.HF_DATASETS_CACHE) / "streamed" / name


def _write_whole(path: Path, texts: Iterable[str]) -> None:
    """Write under a name of this process and rename, so that a broken stream leaves nothing behind that is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
