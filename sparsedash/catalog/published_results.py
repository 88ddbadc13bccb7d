"""The published results that this project is compared with: two tables, their defects, and run
times.

Source: Intel Extension for Transformers, examples/huggingface/pytorch/language-modeling/pruning:
the README's tables, and the scripts beside it for what the tables leave out. Everything was pruned
`channelx1`, in the MLPs only. Today's README has only the last-word table; the commit in SOURCE_URL
has both.
"""

import csv
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Literal

import msgspec

from sparsedash.schema.settings import Dtype

SOURCE = "Intel Extension for Transformers, pruning results"
SOURCE_URL = (
    "https://github.com/intel/intel-extension-for-transformers/tree/2d4335536471caa940acbbd533676e24677e1b53/"
    "examples/huggingface/pytorch/language-modeling/pruning"
)

PublishedMeasure = Literal["last-token", "last-word"]

_HALF_A_DIGIT = 0.00005


@dataclass(frozen=True)
class PublishedModel:
    """A model of the tables. reference: where it is today. config: the file in `configs` with its
    dimensions.

    n_samples: calibration sequences that its published script reads, of CALIBRATION_LENGTH tokens
    each. n_rounds: the parts in which it reads them, getting sparser after each. note: empty, or
    what a person should know before comparing.
    """

    name: str
    reference: str
    config: str
    n_samples: int
    n_rounds: int
    note: str = ""


CALIBRATION_LENGTH = 512

_OF_SCRIPT = "The calibration size and the rounds are those of the script for {}."
_OF_OPT = _OF_SCRIPT.format("opt-125m")
_OF_BLOOM = _OF_SCRIPT.format("bloom-3b")

PUBLISHED_MODELS = (
    PublishedModel("EleutherAI/gpt-j-6b", "EleutherAI/gpt-j-6b", "gpt-j-6b", 6_004, 6),
    PublishedModel(
        "facebook/opt-1.3b", "facebook/opt-1.3b", "opt-1.3b", 6_004, 6, _OF_OPT
    ),
    PublishedModel(
        "facebook/opt-2.7b", "facebook/opt-2.7b", "opt-2.7b", 6_004, 6, _OF_OPT
    ),
    PublishedModel(
        "decapoda-research/llama-7b-hf",
        "huggyllama/llama-7b",
        "llama-7b",
        2_004,
        5,
        "decapoda-research/llama-7b-hf is no longer on the hub; huggyllama/llama-7b is the usual substitute.",
    ),
    PublishedModel(
        "bigscience/bloom-1b7", "bigscience/bloom-1b7", "bloom-1b7", 2_004, 5, _OF_BLOOM
    ),
    PublishedModel(
        "bigscience/bloom-7b1", "bigscience/bloom-7b1", "bloom-7b1", 2_004, 5, _OF_BLOOM
    ),
)


@dataclass(frozen=True)
class PublishedRow:
    """One row as it stands in its table. Shares and accuracies are 0 to 1.

    calibration: the text by its published name. mlp_sparsity, matmul_ratio: None where the table
    has no such column.
    drop_percent: sparse against dense, relative to dense, as it was stated. note: a defect of this
    row, or empty.
    """

    model: str
    measure: PublishedMeasure
    calibration: str
    dtype: Dtype
    sparsity_permille: int
    dense: float
    sparse: float
    drop_percent: float
    mlp_sparsity: float | None = None
    matmul_ratio: float | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """A unique name of the row, fit for an address."""
        model = self.model.partition("/")[2]
        return f"{model}-{self.calibration}-{self.sparsity_permille // 10}-{self.measure}-{self.dtype}"

    @property
    def n_passages(self) -> int:
        """Passages behind each of the two accuracies: LAMBADA's validation split, or its test split
        of OpenAI.
        """
        return 4_869 if self.measure == "last-token" else 5_153

    @property
    def n_right(self) -> tuple[int, int]:
        """Right answers of dense and sparse: whole numbers nearest to the published shares."""
        return round(self.dense * self.n_passages), round(self.sparse * self.n_passages)

    @cached_property
    def drop_range(self) -> tuple[float, float]:
        """Bounds of the relative drop in percent, the accuracies being rounded to four digits."""
        lowest = (self.sparse - _HALF_A_DIGIT) / (self.dense + _HALF_A_DIGIT)
        highest = (self.sparse + _HALF_A_DIGIT) / (self.dense - _HALF_A_DIGIT)
        return 100 * (lowest - 1), 100 * (highest - 1)

    @property
    def drop_follows(self) -> bool:
        """Whether the stated change fits the two accuracies, digits rounded or cut off."""
        low, high = self.drop_range
        return low - 0.01 < self.drop_percent < high + 0.01


with (Path(__file__).parent / "published.csv").open(
    encoding="utf-8", newline=""
) as _file:
    _rows = [dict(filter(itemgetter(1), row.items())) for row in csv.DictReader(_file)]
PUBLISHED_ROWS = msgspec.convert(_rows, tuple[PublishedRow, ...], strict=False)
LAST_TOKEN = tuple(row for row in PUBLISHED_ROWS if row.measure == "last-token")
"""Accuracy of the last token, by the published rule (see settings.EvaluationSettings)."""
LAST_WORD = tuple(row for row in PUBLISHED_ROWS if row.measure == "last-word")
"""Accuracy of the whole last word, as the common harness counts it."""


def published_model(name: str) -> PublishedModel:
    """The model of a row, by its published name or by where it is today.

    Raises KeyError where no row is about it.
    """
    for model in PUBLISHED_MODELS:
        if name in (model.name, model.reference):
            return model
    raise KeyError(name)


LAMBADA_TRAINING_TEXTS = 2_662
"""Novels in its training split."""

_ASSUMED = {
    "lambada": (
        "The published scripts calibrate on pile_10k alone; the same number of texts is assumed here. The training "
        f"split of LAMBADA has fewer, {LAMBADA_TRAINING_TEXTS:,}, and all of them are read."
    ),
    "the_pile": (
        "The published scripts calibrate on pile_10k alone; the same number of texts, and the first ones, are assumed "
        "here. Parts of the Pile were withdrawn from the hub since; the rest is read."
    ),
}
"""Assumptions about a row's calibration text, by its published name."""


def row_notes(row: PublishedRow) -> tuple[str, ...]:
    """Caveats of a row, in sentences."""
    low, high = row.drop_range
    notes = [
        row.note,
        published_model(row.model).note,
        _ASSUMED.get(row.calibration, ""),
    ]
    if not row.drop_follows:
        note = (
            f"The stated change, {row.drop_percent:+.2f} %, does not follow from the two accuracies, which give "
            f"{low:+.2f} to {high:+.2f} %."
        )
        notes.insert(0, note.replace("-", "\N{MINUS SIGN}"))
    return tuple(filter(None, notes))


@dataclass(frozen=True)
class RunAtSize:
    """One run in BF16 at 10 and 20 %, weights left in their files, as `benchmarks/streaming.py`
    printed it.

    method: by its preset's name. peak_bytes: the most memory that its process held.
    """

    method: str
    n_tokens: int
    n_passages: int
    seconds: float
    peak_bytes: float


RUNS_AT_SIZE = {
    "opt-1.3b": RunAtSize("wanda-channels", 4_096, 20, 232.0, 1.48e9),
    "bloom-1b7": RunAtSize("wanda-channels", 4_096, 20, 234.0, 2.40e9),
    "opt-2.7b": RunAtSize("wanda-channels", 4_096, 20, 413.0, 2.10e9),
    "gpt-j-6b": RunAtSize("wanda-channels", 4_096, 10, 690.0, 2.56e9),
    "bloom-7b1": RunAtSize("wanda-channels", 4_096, 10, 853.0, 4.17e9),
    "llama-7b": RunAtSize("least-squares", 45_056, 100, 6_570.0, 2.7e9),
}
"""Pruning at full size on two cores, by the config in `configs`: shapes with random weights, which
take as long. docs/results.md has every stage; the largest of llama-7b, answering, was measured
again once it took less.
"""
