"""Models and text sets to choose from, and the finished run that ships as an example."""

import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sparsedash.catalog.mixed_text import SOURCES
from sparsedash.schema.errors import install_command
from sparsedash.schema.pair_records import Continuation
from sparsedash.schema.records import Passages, R, Record, Run, from_lines, to_line
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_CLOZE_402,
    BUILTIN_MIXED,
    BUILTIN_MODEL,
    BUILTIN_TEXT,
    SELF,
)

_LAMBADA_SIZE = "552 MB, nearly all of it the novels of the training split"


@dataclass(frozen=True)
class HubCorpus:
    """A text set on the hub, read through `datasets`.

    running: its rows are parts of one running text rather than documents of their own.
    n_streamed: how many rows are streamed from the front of one that is too big to download; None:
    it is downloaded.
    """

    path: str
    config: str | None = None
    split: str = "train"
    running: bool = False
    n_streamed: int | None = None


@dataclass(frozen=True)
class CatalogEntry:
    """A name as it is typed, a title as it is shown, and one line on it.

    Of a text set also the licence and the size of all its splits as they are fetched; of one of the
    hub as its card and its list of files say. n_texts: how many passages there are. n_tokens: of a
    passage on average, where they are longer than the built-in ones. group: of a suggested model.
    files: in which a text set ships; the texts of a name never change, since they are part of keys.
    hub: where it is fetched.
    """

    name: str
    title: str
    summary: str
    licence: str = ""
    size: str = ""
    n_texts: int = 0
    n_tokens: int = 0
    group: str = ""
    files: tuple[str, ...] = ()
    hub: HubCorpus | None = None

    @property
    def reading(self) -> str:
        """The reading of a text set; empty for a model."""
        if self.name == SELF:
            return "generated on this machine, then kept"
        if self.hub is None:
            return "ships with the program" if self.files else ""
        n = self.hub.n_streamed
        return (
            f"its first {n:,} documents are streamed once, then cached"
            if n
            else "downloaded once, then cached"
        )


_PUBLISHED = (
    ("EleutherAI/gpt-j-6b", "GPT-J 6B", 24),
    ("facebook/opt-1.3b", "OPT 1.3B", 5),
    ("facebook/opt-2.7b", "OPT 2.7B", 11),
    ("huggyllama/llama-7b", "LLaMA 7B", 27),
    ("bigscience/bloom-1b7", "BLOOM 1.7B", 7),
    ("bigscience/bloom-7b1", "BLOOM 7.1B", 28),
)
_SMOLLM2 = "a Q4_1 file, unpacked; Apache-2.0"

_CURRENT = (
    ("Qwen/Qwen3-0.6B-Base", "Qwen 3 0.6B", 2.4),
    ("Qwen/Qwen3-1.7B-Base", "Qwen 3 1.7B", 6.9),
    ("Qwen/Qwen3-4B-Base", "Qwen 3 4B", 16),
    ("Qwen/Qwen3-8B-Base", "Qwen 3 8B", 33),
    ("meta-llama/Llama-3.2-1B", "Llama 3.2 1B", 4.9),
    ("meta-llama/Llama-3.2-3B", "Llama 3.2 3B", 13),
    ("meta-llama/Llama-3.1-8B", "Llama 3.1 8B", 32),
    ("google/gemma-3-270m", "Gemma 3 270M", 1.1),
    ("google/gemma-3-1b-pt", "Gemma 3 1B", 4),
    ("HuggingFaceTB/SmolLM2-135M", "SmolLM2 135M", 0.5),
    ("HuggingFaceTB/SmolLM2-360M", "SmolLM2 360M", 1.4),
    ("HuggingFaceTB/SmolLM2-1.7B", "SmolLM2 1.7B", 6.8),
    ("HuggingFaceTB/SmolLM3-3B-Base", "SmolLM3 3B", 12),
    ("allenai/OLMo-2-0425-1B", "OLMo 2 1B", 5.9),
    ("allenai/OLMo-2-1124-7B", "OLMo 2 7B", 29),
    ("Qwen/Qwen3.5-0.8B-Base", "Qwen 3.5 0.8B", 0),
    ("Qwen/Qwen3.5-4B-Base", "Qwen 3.5 4B", 0),
    ("google/gemma-4-E2B-it", "Gemma 4 E2B", 0),
    ("google/gemma-4-12B-it", "Gemma 4 12B", 0),
    ("mistralai/Ministral-3-8B-Base-2512", "Ministral 3 8B", 0),
    ("allenai/Olmo-3-7B-Instruct", "OLMo 3 7B", 0),
    ("LiquidAI/LFM2-1.2B", "LFM 2 1.2B", 0),
)
"""Reference, title and gigabytes in FP32; 0 where no published config was read."""
_MIXTURES = (
    ("Qwen/Qwen3-30B-A3B-Base", "Qwen 3 30B, 3B active", 122),
    ("Qwen/Qwen3.5-35B-A3B", "Qwen 3.5 35B, 3B active", 0),
    ("google/gemma-4-26B-A4B-it", "Gemma 4 26B, 4B active", 0),
    ("allenai/OLMoE-1B-7B-0924", "OLMoE 7B, 1B active", 0),
    ("LiquidAI/LFM2-8B-A1B", "LFM 2 8B, 1B active", 0),
    ("ibm-granite/granite-4.0-h-tiny", "Granite 4.0 H Tiny", 0),
    ("deepseek-ai/DeepSeek-V2-Lite", "DeepSeek V2 Lite", 0),
    ("mistralai/Mixtral-8x7B-v0.1", "Mixtral 8x7B", 0),
)
_GATED = (
    "; gated: accept its licence on the hub, then set HF_TOKEN where SparseDash starts"
)


def _hub_models(
    group: str, rows: Iterable[tuple[str, str, float]]
) -> Iterator[CatalogEntry]:
    for name, title, gigabytes in rows:
        note = (
            f"{gigabytes} GB in FP32"
            if gigabytes
            else "its size is looked up when it is chosen"
        )
        if name.startswith(("meta-llama/", "google/")):
            note += _GATED
        yield CatalogEntry(name, title, note, group=group)


MODELS = (
    CatalogEntry(BUILTIN_MODEL, "SmolLM2 135M (built in)", _SMOLLM2),
    *_hub_models("With published results", _PUBLISHED),
    *_hub_models("Current", _CURRENT),
    *_hub_models("Mixtures of experts", _MIXTURES),
)

EVALUATION_CORPORA = (
    CatalogEntry(
        *(BUILTIN_CLOZE, "Cloze passages (built in)"),
        "132 passages written for this project in LAMBADA's manner; not LAMBADA, not comparable with it",
        *("Apache-2.0", "65 kB"),
        n_texts=132,
        files=("cloze.jsonl",),
    ),
    CatalogEntry(
        *(BUILTIN_CLOZE_402, "Cloze passages, all (built in)"),
        "the same 132 and 270 more, which decide smaller losses; not LAMBADA, not comparable with it",
        *("Apache-2.0", "200 kB"),
        n_texts=402,
        files=("cloze.jsonl", "cloze-more.jsonl"),
    ),
    CatalogEntry(
        *("lambada_openai", "LAMBADA, OpenAI variant"),
        "5,151 passages, the text the common harness uses without its two repeats",
        *("MIT", "1.8 MB"),
        n_texts=5151,
        hub=HubCorpus("EleutherAI/lambada_openai", "default", "test"),
    ),
    CatalogEntry(
        *(
            "lambada",
            "LAMBADA, original",
            "5,151 lower-case passages, the test split without its two repeats",
        ),
        *("CC BY 4.0", _LAMBADA_SIZE),
        n_texts=5151,
        hub=HubCorpus("cimec/lambada", "plain_text", "test"),
    ),
    CatalogEntry(
        *("lambada-validation", "LAMBADA, original, validation"),
        "4,869 lower-case passages, those of the published last-token table",
        *("CC BY 4.0", _LAMBADA_SIZE),
        n_texts=4869,
        hub=HubCorpus("cimec/lambada", "plain_text", "validation"),
    ),
)

CALIBRATION_CORPORA = (
    CatalogEntry(
        *(SELF, "The model's own text"),
        "sampled from the dense model after short story openings; needs no data",
        *("the model's", "as requested"),
    ),
    CatalogEntry(
        *(BUILTIN_MIXED, "Built-in mix"),
        "stories, prose, sums, lists, code, tables, questions and instructions: most abilities survive",
        *("Apache-2.0", "450 kB"),
        n_texts=636,
        n_tokens=339,
        files=tuple(source.file for source in SOURCES if source.file),
    ),
    CatalogEntry(
        *(BUILTIN_TEXT, "Built-in stories"),
        "stories SmolLM2 135M wrote in advance, so no time is spent generating",
        *("Apache-2.0", "150 kB"),
        files=("smollm2-text.jsonl",),
    ),
    CatalogEntry(
        *(
            "pile-10k",
            "Pile, 10k documents",
            "the published calibration text",
            "BigScience BLOOM RAIL 1.0",
            "33 MB",
        ),
        hub=HubCorpus("NeelNanda/pile-10k"),
    ),
    CatalogEntry(
        *("the_pile", "Pile, without Books3 and the like"),
        "web, code, papers and more; the published set without the parts withdrawn since",
        *("each part its own", "30 compressed files"),
        hub=HubCorpus("monology/pile-uncopyrighted", n_streamed=10_000),
    ),
    CatalogEntry(
        *("c4", "C4, English", "cleaned web pages", "ODC-BY", "305 GB"),
        hub=HubCorpus("allenai/c4", "en", n_streamed=10_000),
    ),
    CatalogEntry(
        *(
            "wikitext-2",
            "WikiText-2",
            "encyclopaedia articles",
            "CC BY-SA 3.0 and GFDL",
            "8 MB",
        ),
        hub=HubCorpus("Salesforce/wikitext", "wikitext-2-raw-v1", running=True),
    ),
    CatalogEntry(
        *(
            "lambada-train",
            "LAMBADA, original, training",
            "2,662 lower-case novels",
            "CC BY 4.0",
            _LAMBADA_SIZE,
        ),
        hub=HubCorpus("cimec/lambada", "plain_text"),
    ),
)

OFFERED = {
    "model": MODELS,
    "evaluation text": EVALUATION_CORPORA,
    "calibration text": CALIBRATION_CORPORA,
}
"""What the form and the shell offer for a reference, by the title of its setting."""

_TEXTS = (*EVALUATION_CORPORA, *CALIBRATION_CORPORA)
HUB_TEXTS = {text.name: text.hub for text in _TEXTS if text.hub}
SHIPPED_TEXTS = {text.name: text.files for text in _TEXTS if text.files}
"""Text sets by their names: on the hub, and the files of those that ship."""

EXAMPLE = "example"
"""The key of the run."""

EXAMPLE_FILE = Path(__file__).parent / "example" / "run.jsonl.xz"


def is_example(key: str) -> bool:
    """Whether this is the key of the run, or of one of its records."""
    return key.split("-")[0] == EXAMPLE


TASKS = (
    *(
        "piqa",
        "boolq",
        "hellaswag",
        "arc_easy",
        "arc_challenge",
        "winogrande",
        "openbookqa",
        "commonsense_qa",
    ),
    *("sciq", "mmlu", "gsm8k", "lambada_openai", "wikitext"),
)
"""Tasks of lm-evaluation-harness that the form suggests."""

_INSTALL = install_command("-r requirements-tasks.txt")
NO_HARNESS = (
    f"Tasks that are not built in need lm-evaluation-harness. To install it: {_INSTALL}"
)


def example_key(key: str) -> str:
    """The key that a result made under this key has in the example."""
    return f"{EXAMPLE}-{key}"


def example_result(kind: type[R], key: str) -> R | None:
    """The shipped record of this kind and key, or None."""
    part = _example_parts(EXAMPLE_FILE).get(key) if is_example(key) else None
    return part if isinstance(part, kind) else None


Shipped = Run | Record | Passages | Continuation
"""What the example is made of."""


def write_example(parts: Iterable[Shipped], file: Path = EXAMPLE_FILE) -> None:
    """Write what ships; the same parts give the same bytes."""
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(lzma.compress("".join(map(to_line, parts)).encode()))


@cache
def _example_parts(file: Path) -> dict[str, Shipped]:
    """Everything that ships, by its key; nothing where a build left the file out."""
    if not file.is_file():
        return {}
    kinds: tuple[type[Shipped], ...] = (Run, Record, Passages, Continuation)
    return {
        part.key: part
        for part in from_lines(lzma.decompress(file.read_bytes()).decode(), kinds)
    }
