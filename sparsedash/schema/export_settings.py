"""What may be asked about taking a sparse model away: in which form, in which numbers, to where."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.hashing import stage_key
from sparsedash.schema.validation import one_of, reference, whole

Form = Literal["uniform", "padded", "masked", "gguf"]
"""uniform: one narrower width. padded: widths of each block, filled up with zeros to one. masked: the dense shape with
zeros. gguf: a file for llama.cpp.
"""

Weights = Literal["float32", "bfloat16", "float16", "q8_0"]
"""How each weight is kept; q8_0: 8 bits each and a scale for every 32 of a row."""

Runtime = Literal["transformers", "llama.cpp"]

EXPORTS = "exports"
"""The folder of the data folder where exports go that were given no other place."""

_OF_SAFETENSORS: tuple[Weights, ...] = ("float32", "bfloat16", "float16")
_OF_GGUF: tuple[Weights, ...] = ("float32", "float16", "q8_0")
_DASHED = re.compile(r"[^A-Za-z0-9._]+")


def possible_weights(form: Form) -> tuple[Weights, ...]:
    """How the weights of a file of this form may be kept."""
    return _OF_GGUF if form == "gguf" else _OF_SAFETENSORS


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """A request for the files of one record's sparse model. dense, sparse: record keys.

    shard_mb: the largest file of weights, in millions of bytes. to: the folder to make; empty: one of the data folder.
    dense_gguf: a GGUF file of the dense model with full weights, where the form is gguf and the model itself is none.
    """

    dense: str
    sparse: str
    form: Form
    weights: Weights = "float32"
    shard_mb: int = 5_000
    to: str = ""
    dense_gguf: str = ""

    def __post_init__(self) -> None:
        one_of("form", self.form, Form)
        one_of("weights", self.weights, Weights)
        if self.weights not in possible_weights(self.form):
            raise SettingsError("weights", self.weights, f"{', '.join(possible_weights(self.form))} as {self.form}")
        whole("shard size (MB)", self.shard_mb, 1, 1_000_000)
        for name, value in (("to", self.to), ("dense GGUF", self.dense_gguf)):
            if value:
                reference(name, value)

    def key(self) -> str:
        """The name of this request and of what it makes."""
        return stage_key("export", **asdict(self))

    def folder(self, data_dir: Path, model: str, method: str, permille: int) -> Path:
        """The folder that is made; of the data folder it is one with a name that can be read.

        model, method: their names. permille: the sparsity.
        """
        if self.to:
            return Path(self.to)
        parts = (model, method, f"{permille / 10:g}pct", self.form, self.weights, self.key()[:6])
        name = "-".join(_DASHED.sub("-", part).strip("-.")[-60:] for part in parts)
        return data_dir / EXPORTS / name
