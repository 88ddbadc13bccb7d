"""Models and text sets to choose from, and the finished run that ships as an example."""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sparsedash.catalog import families
from sparsedash.catalog.engine_limits import MODELS_TOGETHER
from sparsedash.schema.records import Passages, R, Record, Run, from_lines, to_line
from sparsedash.schema.settings import BUILTIN_CLOZE, BUILTIN_CLOZE_402, BUILTIN_MODEL, BUILTIN_TEXT, SELF, RunSettings

SHIPPED = "ships with the program"
DOWNLOADED = "downloaded once, then read from the local cache"
STREAMED = "its first 10,000 documents are streamed once, then read from the local cache"
LAMBADA_SIZE = "552 MB, nearly all of it the novels of the training split"


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A name as it is typed, a title as it is shown, and one line on it.

    Of a text set also the licence, the size of all its splits as they are fetched, and how it is read; of one of the
    hub the first two as its card and its list of files say. n_texts: how many there are, of passages to answer.
    """

    name: str
    title: str
    summary: str
    licence: str = ""
    size: str = ""
    reading: str = ""
    n_texts: int = 0


MODELS: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        name=BUILTIN_MODEL,
        title="SmolLM2 135M (built in)",
        summary="a Q4_1 file, unpacked; ships with the installation, needs no network; Apache-2.0",
    ),
    CatalogEntry(name="EleutherAI/gpt-j-6b", title="GPT-J 6B", summary="published; 24 GB in FP32"),
    CatalogEntry(name="facebook/opt-1.3b", title="OPT 1.3B", summary="published; 5 GB in FP32"),
    CatalogEntry(name="facebook/opt-2.7b", title="OPT 2.7B", summary="published; 11 GB in FP32"),
    CatalogEntry(name="huggyllama/llama-7b", title="LLaMA 7B", summary="published; 27 GB in FP32"),
    CatalogEntry(name="bigscience/bloom-1b7", title="BLOOM 1.7B", summary="published; 7 GB in FP32"),
    CatalogEntry(name="bigscience/bloom-7b1", title="BLOOM 7.1B", summary="published; 28 GB in FP32"),
)

FAMILIES: tuple[str, ...] = tuple(families.FAMILIES)
"""Values of `model_type` in a model's config.json that can be pruned."""

EVALUATION_CORPORA: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        name=BUILTIN_CLOZE,
        title="Cloze passages (built in)",
        summary="132 passages written for this project in LAMBADA's manner; not LAMBADA, not comparable with it",
        licence="Apache-2.0",
        size="65 kB",
        reading=SHIPPED,
        n_texts=132,
    ),
    CatalogEntry(
        name=BUILTIN_CLOZE_402,
        title="Cloze passages, all (built in)",
        summary="the same 132 and 270 more, which decide smaller losses; not LAMBADA, not comparable with it",
        licence="Apache-2.0",
        size="200 kB",
        reading=SHIPPED,
        n_texts=402,
    ),
    CatalogEntry(
        name="lambada_openai",
        title="LAMBADA, OpenAI variant",
        summary="5,151 passages, the text the common harness uses without its two repeats",
        licence="MIT",
        size="1.8 MB",
        reading=DOWNLOADED,
        n_texts=5151,
    ),
    CatalogEntry(
        name="lambada",
        title="LAMBADA, original",
        summary="5,151 lower-case passages, the test split without its two repeats",
        licence="CC BY 4.0",
        size=LAMBADA_SIZE,
        reading=DOWNLOADED,
        n_texts=5151,
    ),
    CatalogEntry(
        name="lambada-validation",
        title="LAMBADA, original, validation",
        summary="4,869 lower-case passages, those of the published last-token table",
        licence="CC BY 4.0",
        size=LAMBADA_SIZE,
        reading=DOWNLOADED,
        n_texts=4869,
    ),
)

CALIBRATION_CORPORA: tuple[CatalogEntry, ...] = (
    CatalogEntry(
        name=SELF,
        title="Written by the model itself",
        summary="sampled from the dense model after short story openings; needs no data",
        licence="the model's",
        size="what is asked for",
        reading="written on this machine, then kept",
    ),
    CatalogEntry(
        name=BUILTIN_TEXT,
        title="Written by the built-in model (built in)",
        summary="what SmolLM2 135M wrote after short story openings, once; saves it the writing",
        licence="Apache-2.0",
        size="150 kB",
        reading=SHIPPED,
    ),
    CatalogEntry(
        name="pile-10k",
        title="Pile, 10k documents",
        summary="the published calibration text",
        licence="BigScience BLOOM RAIL 1.0",
        size="33 MB",
        reading=DOWNLOADED,
    ),
    CatalogEntry(
        name="the_pile",
        title="Pile, without Books3 and the like",
        summary="web, code, papers and more; the published name, without the parts that had to go",
        licence="other, says its card: that of each part",
        size="30 compressed files",
        reading=STREAMED,
    ),
    CatalogEntry(
        name="c4", title="C4, English", summary="cleaned web pages", licence="ODC-BY", size="305 GB", reading=STREAMED
    ),
    CatalogEntry(
        name="wikitext-2",
        title="WikiText-2",
        summary="encyclopaedia articles",
        licence="CC BY-SA 3.0 and GFDL",
        size="8 MB",
        reading=DOWNLOADED,
    ),
    CatalogEntry(
        name="lambada-train",
        title="LAMBADA, original, training",
        summary="2,662 lower-case novels",
        licence="CC BY 4.0",
        size=LAMBADA_SIZE,
        reading=DOWNLOADED,
    ),
)

OFFERED = {"model": MODELS, "evaluation text": EVALUATION_CORPORA, "calibration text": CALIBRATION_CORPORA}
"""What the form and the shell offer for a reference, by the title of its setting."""


def n_passages(settings: RunSettings) -> int | None:
    """How many passages are answered, as far as is known before the text is read."""
    asked, corpus = settings.evaluation.n_passages, settings.evaluation.corpus
    known = next((choice.n_texts for choice in EVALUATION_CORPORA if choice.name == corpus), 0)
    return min(asked, known) if asked and known else asked or known or None


def n_side_by_side(settings: RunSettings) -> int:
    """How many models of a run answer together at most where weights stay in files: one where it may stop early."""
    return 1 if settings.evaluation.stop_early else min(1 + settings.n_sparse, MODELS_TOGETHER)


def in_one_walk(settings: RunSettings, *, some: bool = False) -> bool:
    """Whether weights that stay in files are read once for everything: each block to calibrate, prune and ask there.

    some: whether that may be so for some of the models, where other methods look back.
    """
    forward = [not method.looks_back for method in settings.methods]
    return not settings.evaluation.stop_early and (any(forward) if some else all(forward))


EXAMPLE = "example"
"""The key of the run."""

EXAMPLE_FILE = Path(__file__).parent / "example" / "run.jsonl.gz"


def is_example(key: str) -> bool:
    """Whether this is the key of the run, or of one of its records."""
    return key.split("-")[0] == EXAMPLE


def example_key(key: str) -> str:
    """The key that a result made under this key has in the example."""
    return f"{EXAMPLE}-{key}"


def example_result(kind: type[R], key: str) -> R | None:
    """What ships of this kind under this key, or None."""
    found = _example_parts(EXAMPLE_FILE).get(key) if is_example(key) else None
    return found if isinstance(found, kind) else None


def write_example(parts: Iterable[Run | Record | Passages], file: Path = EXAMPLE_FILE) -> None:
    """Write what ships; the same parts give the same bytes."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress("".join(map(to_line, parts)).encode(), mtime=0))


@cache
def _example_parts(file: Path) -> dict[str, Run | Record | Passages]:
    """Everything that ships, by its key; nothing where a build left the file out."""
    if not file.is_file():
        return {}
    kinds: tuple[type[Run | Record | Passages], ...] = (Run, Record, Passages)
    return {part.key: part for part in from_lines(gzip.decompress(file.read_bytes()).decode(), kinds)}
