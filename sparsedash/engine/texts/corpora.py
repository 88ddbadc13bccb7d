"""Text sets for calibration and evaluation by their references, and their token sequences.

A small set is downloaded once into the local cache of `datasets`; the first texts of a large one
are streamed and kept there. References: a name of catalog.choices, or a file (see
sparsedash.storage.text_files).
"""

import hashlib
import json
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from random import Random

from sparsedash.catalog.choices import HUB_TEXTS, SHIPPED_TEXTS, HubCorpus
from sparsedash.catalog.mixed_text import mixed_documents
from sparsedash.engine.models.hub import HTTPError
from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.texts.mixed_sequences import packed_sequences
from sparsedash.schema.errors import CorpusError, first_line
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_MIXED, CalibrationSettings
from sparsedash.storage.hub_reach import reachable
from sparsedash.storage.local_machine import data_folder, path_kind, write_atomically
from sparsedash.storage.text_files import (
    file_of,
    is_running,
    json_lines,
    names_file,
    text_slice,
    texts_of,
)

TEXTS = Path(__file__).parents[2] / "catalog" / "texts"


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts in their order, and their identity. running: see HubCorpus."""

    texts: tuple[str, ...]
    identity: str
    running: bool = False


def read_texts(reference: str, data_dir: Path | None = None) -> Texts:
    """The texts of a reference. Raises CorpusError. data_dir: folder of uploads."""
    running = False
    if reference == BUILTIN_MIXED:
        documents = mixed_documents()
    elif reference in SHIPPED_TEXTS:
        files = [json_lines(TEXTS / file) for file in SHIPPED_TEXTS[reference]]
        documents = list(chain.from_iterable(files))
    elif names_file(reference):
        path = file_of(reference, data_dir or data_folder())
        if path is None or path_kind(path) != "file":
            advice = "Check the path after file:, or upload it again."
            raise CorpusError(f"There is no file {path or reference}.", advice)
        part = text_slice(reference)
        documents = list(islice(texts_of(path), part.start, part.stop))
        running = is_running(path)
    elif reference in HUB_TEXTS:
        documents = _read_hub(reference, HUB_TEXTS[reference])
        running = HUB_TEXTS[reference].running
    else:
        names = ", ".join([*SHIPPED_TEXTS, *sorted(HUB_TEXTS)])
        raise CorpusError(
            f"There is no text set {reference!r}; possible: {names}, file:PATH, upload:NAME@HASH."
        )
    texts = tuple(text for text in documents if text.strip())
    if not texts:
        raise CorpusError(f"{reference} holds no text.", "Name another text set.")
    # Cut otherwise than documents; 2: each piece begins as every text does.
    hasher = hashlib.sha256(b"running 2" if running else b"")
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "big") + data)
    return Texts(
        texts=texts,
        identity=f"sha256:{hasher.hexdigest()}",
        running=running,
    )


def story_openings() -> tuple[str, ...]:
    """Short story openings after which the model writes its own calibration text."""
    return tuple(json_lines(TEXTS / "openings.jsonl"))


def _read_hub(name: str, corpus: HubCorpus) -> list[str]:
    # Slow to import, and most runs read no text of the hub.
    import datasets

    # Each attempt asks the hub five times more by itself: the usual twenty wait ten minutes for a
    # hub that does not answer.
    datasets.config.STREAMING_READ_MAX_RETRIES = 2
    # In the local cache of `datasets`, which keeps no streamed texts itself.
    n_streamed = corpus.n_streamed
    parts = (corpus.path.replace("/", "--"), corpus.config, corpus.split, n_streamed)
    file_name = "-".join(str(part) for part in parts if part)
    file = Path(datasets.config.HF_DATASETS_CACHE) / "streamed" / f"{file_name}.jsonl"
    if n_streamed and file.is_file():
        return list(json_lines(file))
    # Where the hub does not answer, `datasets` goes straight to its cache: it would try again for
    # more than a minute.
    before = datasets.config.HF_HUB_OFFLINE
    offline = before or not reachable()
    datasets.config.HF_HUB_OFFLINE = offline
    texts: list[str] = []
    try:
        rows = datasets.load_dataset(
            corpus.path, corpus.config, split=corpus.split, streaming=bool(n_streamed)
        )
        for row in islice(rows, n_streamed):
            texts.append(row["text"])
        if n_streamed:
            # The end of a compressed file that was cut off looks like its end.
            if len(texts) != n_streamed:
                raise EOFError("there were no more")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(
                file, "".join(json.dumps({"text": text}) + "\n" for text in texts)
            )
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        HTTPError,
        datasets.exceptions.DatasetsError,
    ) as error:
        raise _hub_problem(
            name,
            corpus,
            error,
            n_texts=len(texts),
            offline=offline,
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before
    return texts


def _hub_problem(
    name: str, corpus: HubCorpus, error: Exception, *, n_texts: int, offline: bool
) -> CorpusError:
    reason = first_line(error)
    streamed = corpus.n_streamed is not None and not offline
    if streamed and isinstance(error, ConnectionError | EOFError):
        return CorpusError(
            f"{name} ended after {n_texts:,} of {corpus.n_streamed:,} texts: {reason}.",
            "Nothing of it was kept. Start again when the hub answers.",
        )
    if isinstance(error, ConnectionError):
        return CorpusError(
            f"{name} is not in the local cache, and the hub cannot be reached.",
            f"Connect to the network once, use file:PATH, or {BUILTIN_CLOZE}.",
        )
    return CorpusError(
        f"{name} could not be read from the hub: {reason}.",
        "Start again when the hub answers; a gated text set needs the hub's token in HF_TOKEN.",
    )


def calibration_sequences(
    loaded: LoadedModel, texts: Texts, settings: CalibrationSettings
) -> list[list[int]]:
    """Token ids of documents in an order drawn by the seed, at most n_samples * length tokens.

    A long document is cut to `length`, a short one stays short, so that each begins as evaluated
    passages begin; packed, these are joined and cut again. A running text is joined first and cut
    into pieces of `length`, each with the token that begins every text, if there is one. Raises
    CorpusError without any sample of two tokens.
    """
    length = min(settings.length, loaded.max_length)
    budget = settings.n_samples * length
    pieces: list[str] | list[list[int]] = list(texts.texts)
    if texts.running:
        cut = loaded.windows(loaded.tokens("\n\n".join(texts.texts)), length)
        pieces = [piece for piece in cut if len(piece) == length] or cut
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
    if settings.packed:
        chosen = packed_sequences(chosen, length)
    # One token has nothing to predict.
    sequences = [ids for ids in chosen if len(ids) >= 2]
    if not sequences:
        raise CorpusError(
            "The calibration text has no sample of two tokens or more.",
            "Choose another text.",
        )
    return sequences
