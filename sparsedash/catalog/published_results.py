"""The published results that this project is compared with: two tables, their defects, and run times.

Source: Intel Extension for Transformers, examples/huggingface/pytorch/language-modeling/pruning: the README's tables,
and the scripts beside it for what the tables leave out. Everything was pruned `channelx1`, in the MLPs only. Today's
README has only the last-word table; the commit in SOURCE_URL has both.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sparsedash.schema.settings import Dtype

SOURCE = "Intel Extension for Transformers, pruning results"
SOURCE_URL = (
    "https://github.com/intel/intel-extension-for-transformers/tree/2d4335536471caa940acbbd533676e24677e1b53/"
    "examples/huggingface/pytorch/language-modeling/pruning"
)

PublishedMeasure = Literal["last-token", "last-word"]

PUBLISHED_PASSAGES: dict[PublishedMeasure, int] = {"last-token": 4_869, "last-word": 5_153}
"""Passages behind a published accuracy: LAMBADA's validation split, and the test split in OpenAI's variant."""

_HALF_A_DIGIT = 0.00005


@dataclass(frozen=True)
class PublishedModel:
    """A model of the tables. reference: where it is today. config: the file in `configs` with its dimensions.

    n_samples: calibration sequences that its published script reads, of CALIBRATION_LENGTH tokens each. n_rounds: the
    parts in which it reads them, getting sparser after each. note: empty, or what a person should know before
    comparing.
    """

    name: str
    reference: str
    config: str
    n_samples: int
    n_rounds: int
    note: str = ""


CALIBRATION_LENGTH = 512

_OF_SCRIPT = "The calibration size and the rounds are those of the script for {}."
_OF_OPT, _OF_BLOOM = _OF_SCRIPT.format("opt-125m"), _OF_SCRIPT.format("bloom-3b")

PUBLISHED_MODELS = (
    PublishedModel("EleutherAI/gpt-j-6b", "EleutherAI/gpt-j-6b", "gpt-j-6b", 6_004, 6),
    PublishedModel("facebook/opt-1.3b", "facebook/opt-1.3b", "opt-1.3b", 6_004, 6, _OF_OPT),
    PublishedModel("facebook/opt-2.7b", "facebook/opt-2.7b", "opt-2.7b", 6_004, 6, _OF_OPT),
    PublishedModel(
        "decapoda-research/llama-7b-hf",
        "huggyllama/llama-7b",
        "llama-7b",
        2_004,
        5,
        "decapoda-research/llama-7b-hf is gone from the hub; huggyllama/llama-7b is the usual stand-in.",
    ),
    PublishedModel("bigscience/bloom-1b7", "bigscience/bloom-1b7", "bloom-1b7", 2_004, 5, _OF_BLOOM),
    PublishedModel("bigscience/bloom-7b1", "bigscience/bloom-7b1", "bloom-7b1", 2_004, 5, _OF_BLOOM),
)


@dataclass(frozen=True)
class PublishedRow:
    """One row as it stands in its table. Shares and accuracies are 0 to 1.

    calibration: the text by its published name. mlp_sparsity, matmul_ratio: None where the table has no such column.
    drop_percent: sparse against dense, relative to dense, as it was stated. note: a defect of this row, or empty.
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
        """Passages behind each of the two accuracies."""
        return PUBLISHED_PASSAGES[self.measure]

    @property
    def n_right(self) -> tuple[int, int]:
        """Passages that dense and sparse had right: the whole numbers nearest to the published shares."""
        return round(self.dense * self.n_passages), round(self.sparse * self.n_passages)

    @cached_property
    def drop_range(self) -> tuple[float, float]:
        """Between which percents the relative drop must lie, the two accuracies being rounded to four digits."""
        lowest = (self.sparse - _HALF_A_DIGIT) / (self.dense + _HALF_A_DIGIT)
        highest = (self.sparse + _HALF_A_DIGIT) / (self.dense - _HALF_A_DIGIT)
        return 100 * (lowest - 1), 100 * (highest - 1)

    @property
    def drop_follows(self) -> bool:
        """Whether the stated drop can be that of the two accuracies; cut digits are forgiven as well as rounded
        ones.
        """
        low, high = self.drop_range
        return low - 0.01 < self.drop_percent < high + 0.01


def _token_row(model: str, calibration: str, ratio: float, sparse: float, drop: float, dense: float) -> PublishedRow:
    return PublishedRow(
        *(model, "last-token", calibration, "float32", 100, dense, sparse, drop),
        mlp_sparsity=0.0999,
        matmul_ratio=ratio,
    )


def _word_rows(
    model: str, fp32: tuple[float, float, float], bf16: tuple[float, float, float], note: str = ""
) -> tuple[PublishedRow, PublishedRow]:
    """The FP32 and the BF16 row of a model: dense, sparse, stated drop in percent. note: on the BF16 row."""
    single = PublishedRow(model, "last-word", "pile_10k", "float32", 100, *fp32)
    return single, PublishedRow(model, "last-word", "pile_10k", "bfloat16", 100, *bf16, note=note)


LAST_TOKEN = (
    PublishedRow(
        *("EleutherAI/gpt-j-6b", "last-token", "lambada", "float32", 200, 0.7917, 0.8038, 1.50),
        mlp_sparsity=0.1999,
        matmul_ratio=0.1242,
        note="Its ratio divides by all parameters, embeddings included; every other row divides by the weights of "
        "Linear and Conv layers alone. It is also the only row calibrated on the data set it is evaluated on.",
    ),
    _token_row("EleutherAI/gpt-j-6b", "the_pile", 0.0643, 0.7931, 0.17, 0.7917),
    _token_row("EleutherAI/gpt-j-6b", "pile_10k", 0.0643, 0.7901, -0.20, 0.7917),
    _token_row("facebook/opt-1.3b", "pile_10k", 0.0614, 0.7498, -0.57, 0.7541),
    _token_row("facebook/opt-2.7b", "pile_10k", 0.0634, 0.7778, -0.01, 0.7779),
    _token_row("decapoda-research/llama-7b-hf", "pile_10k", 0.0654, 0.8815, -0.46, 0.8856),
    _token_row("bigscience/bloom-1b7", "pile_10k", 0.0466, 0.7141, -0.03, 0.7143),
    _token_row("bigscience/bloom-7b1", "pile_10k", 0.0568, 0.7742, -0.04, 0.7745),
)
"""Accuracy of the last token, by the published rule (see settings.EvaluationSettings)."""

LAST_WORD = (
    *_word_rows("EleutherAI/gpt-j-6b", (0.6831, 0.6819, -0.17), (0.6792, 0.6767, -0.36)),
    *_word_rows(
        "facebook/opt-1.3b",
        (0.5789, 0.5686, -1.73),
        (0.5629, 0.5501, -1.78),
        note="Its stated drop is the one that follows from the FP32 accuracies.",
    ),
    *_word_rows("facebook/opt-2.7b", (0.6365, 0.6367, 0.03), (0.6336, 0.6344, 0.12)),
    *_word_rows("decapoda-research/llama-7b-hf", (0.7361, 0.7298, -0.86), (0.7326, 0.7271, -0.75)),
    *_word_rows("bigscience/bloom-1b7", (0.4634, 0.4636, 0.04), (0.4570, 0.4572, 0.04)),
    *_word_rows("bigscience/bloom-7b1", (0.5764, 0.5791, 0.47), (0.5723, 0.5756, 0.58)),
)
"""Accuracy of the whole last word, as the common harness counts it."""

PUBLISHED_ROWS = LAST_TOKEN + LAST_WORD


def published_model(name: str) -> PublishedModel:
    """The model of a row, by its published name or by where it is today. Raises KeyError where no row is about it."""
    for model in PUBLISHED_MODELS:
        if name in (model.name, model.reference):
            return model
    raise KeyError(name)


LAMBADA_TRAINING_TEXTS = 2_662
"""Novels in its training split."""

_ASSUMED = {
    "lambada": (
        "The published scripts calibrate on pile_10k alone, so that this row read as many texts is assumed. The "
        f"training split of LAMBADA has fewer, {LAMBADA_TRAINING_TEXTS:,}, and all of them are read."
    ),
    "the_pile": (
        "The published scripts calibrate on pile_10k alone, so that this row read as many texts is assumed, and that "
        "it read the first ones too. Parts of the Pile have left the hub since; those that are left are read."
    ),
}
"""Assumptions about a row's calibration text, by its published name."""


def row_notes(row: PublishedRow) -> tuple[str, ...]:
    """Caveats of a row, in sentences."""
    low, high = row.drop_range
    found = [row.note, published_model(row.model).note, _ASSUMED.get(row.calibration, "")]
    if not row.drop_follows:
        found.insert(
            0,
            f"The stated drop, {row.drop_percent:+.2f} %, does not follow from the two accuracies, which give "
            f"{low:+.2f} to {high:+.2f} %.".replace("-", "\N{MINUS SIGN}"),
        )
    return tuple(note for note in found if note)


@dataclass(frozen=True)
class RunAtSize:
    """One run in BF16 at 10 and 20 %, weights left in their files, as `benchmarks/streaming.py` printed it.

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
    "llama-7b": RunAtSize("least-squares", 45_056, 100, 6_570.0, 7.48e9),
}
"""Pruning at full size on two cores, by the config in `configs`: shapes with random weights, which take as long.
docs/results.md has every stage.
"""
