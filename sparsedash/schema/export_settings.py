"""Request for an export of a sparse model, its reload proof and the export."""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.fields import check_settings, setting
from sparsedash.schema.plain_values import require_reference
from sparsedash.schema.sparse_spec import Quantisation
from sparsedash.schema.stage_versions import stage_key
from sparsedash.schema.tolerance_settings import Tolerance

Form = Literal["uniform", "padded", "masked", "gguf"]
"""uniform: one narrower width. padded: widths of each block, filled up with zeros to one. masked:
the dense shape with zeros. gguf: a file for llama.cpp.
"""

Weights = Literal["float32", "bfloat16", "float16", Quantisation, "as-stored"]
"""Types of weights. as-stored: each tensor keeps its type and its bits in the dense GGUF file."""

Runtime = Literal["transformers", "llama.cpp"]

CARD = "README.md"
EXPORTS = "exports"
"""Subfolder of the data folder for exports without another place."""

_OF_SAFETENSORS: tuple[Weights, ...] = ("float32", "bfloat16", "float16")
_OF_GGUF: tuple[Weights, ...] = (
    "float32",
    "float16",
    *get_args(Quantisation),
    "as-stored",
)
_DASHED = re.compile(r"[^A-Za-z0-9._]+")


def possible_weights(form: Form) -> tuple[Weights, ...]:
    """The possible types of weights in this form."""
    return _OF_GGUF if form == "gguf" else _OF_SAFETENSORS


@dataclass(frozen=True, eq=False, kw_only=True)
class WrittenFiles:
    """Files written. size, base_size: bytes of the weights, sparse and dense. layout: in words.

    file: the name of a GGUF file.
    """

    layout: str
    size: int
    base_size: int
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """A request for the files of a sparse model. dense, sparse: record keys.

    run: the key of their run, which has the model's name: runs of equal models under other names
    share records.
    shard_mb: the largest file of weights, in millions of bytes. to: the new folder; empty: one of
    the data folder.
    dense_gguf: a GGUF file of the dense model with full weights, for the form gguf of a model that
    is none. tolerance: by which the card judges.
    """

    dense: str
    sparse: str
    form: Form = setting("padded", flag="--form", label="Form of the files")
    run: str = ""
    weights: Weights = setting("float32")
    shard_mb: int = setting(
        5_000,
        title="shard size (MB)",
        low=1,
        high=1_000_000,
        flag="--shard-mb",
        flag_help="largest file of weights, in millions of bytes",
    )
    to: str = ""
    dense_gguf: str = ""
    tolerance: Tolerance = field(default_factory=Tolerance)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.weights not in possible_weights(self.form):
            raise SettingsError(
                "weights",
                self.weights,
                f"one of {', '.join(possible_weights(self.form))} as {self.form}",
            )
        for name, value in (("to", self.to), ("dense GGUF", self.dense_gguf)):
            if value:
                require_reference(name, value)

    @property
    def base_weights(self) -> Weights:
        """The type in which the dense model is measured beside the files: theirs, of those of less
        than 8 bits 16.
        """
        known = (*_OF_SAFETENSORS, "q8_0", "as-stored")
        return self.weights if self.weights in known else "float16"

    def key(self) -> str:
        """The name of this request and of its result: the same files have one, by whatever limits a
        card judges.
        """
        values = asdict(self)
        del values["tolerance"]
        return stage_key("export", **values)

    def folder(self, data_dir: Path, model: str, method: str, sparsity: str) -> Path:
        """The new folder; inside the data folder it has a readable name.

        model, method: their names. sparsity: as "20pct".
        """
        if self.to:
            return Path(self.to)
        parts = (model, method, sparsity, self.form, self.weights, self.key()[:6])
        plain = (_DASHED.sub("-", part)[-60:].strip("-.") for part in parts)
        return data_dir / EXPORTS / "-".join(filter(None, plain))


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """Reload proof: a fresh process loaded the files with stock code, compared with the model
    meant.

    The model meant is the run's sparse one, with its weights rounded as in the files. Both compute
    in float32.
    version: of the runtime.
    n_logits: passages whose logits were compared. logit_difference: the largest absolute one;
    logit_allowed: the largest that is no fault. n_verdicts: passages that were answered. n_meant:
    answered right or wrong as the model meant answers them. n_run: as the run's record says.
    n_allowed: verdicts that may differ from the model meant.
    strict: the run computed in float32 as well and its weights are not rounded: every verdict must
    be the run's too.
    """

    runtime: Runtime
    version: str
    n_logits: int
    logit_difference: float
    logit_allowed: float
    n_verdicts: int
    n_meant: int
    n_run: int
    n_allowed: int = 0
    strict: bool = True
    made_at: float

    @property
    def holds(self) -> bool:
        """Whether the files are the model meant."""
        as_meant = self.n_verdicts - self.n_meant <= self.n_allowed
        as_run = not self.strict or self.n_run == self.n_verdicts
        return self.logit_difference <= self.logit_allowed and as_meant and as_run


@dataclass(frozen=True, kw_only=True)
class Export:
    """An exported sparse model, stored once its proof holds.

    layout: of the blocks' widths in the files, in words. model, model_identity: the base. n_bytes:
    of all files; base_bytes: of the same files with the dense model's weights, in the settings'
    base_weights. files: sha256 by name.
    dense_gguf_hash: of the settings' file.
    """

    key: str
    settings: ExportSettings
    folder: str
    layout: str
    model: str
    model_identity: str
    model_type: str
    n_bytes: int
    base_bytes: int
    files: dict[str, str]
    proof: Proof
    made_at: float
    dense_gguf_hash: str = ""

    @property
    def form(self) -> Form:
        """The requested form."""
        return self.settings.form
