"""Facts that a model card states, and the names of models and texts without this machine's folders."""

from collections.abc import Callable
from dataclasses import dataclass

from sparsedash.schema.export_settings import ExportSettings, Proof, WrittenFiles
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import BUILTIN_MODEL

BUILTIN_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True, eq=False, kw_only=True)
class CardFacts:
    """Facts about an export. sparse: with the names of model and texts in its run's settings.

    licence: as the base states it, or empty. source_type: of the weights in the base's GGUF file of
    source_bytes bytes; empty where it has none or they are full numbers. shape: of the dense model.
    """

    settings: ExportSettings
    run: Run | None
    dense: Record
    sparse: Record
    proof: Proof
    written: WrittenFiles
    licence: str
    source_type: str
    source_bytes: int
    shape: ModelShape


RenderCard = Callable[[CardFacts], str]
"""Text of a model card."""


def hub_name(record: Record) -> str:
    """The name of the record's model on the hub; empty where it is from elsewhere."""
    if record.model == BUILTIN_MODEL:
        return BUILTIN_BASE
    return record.model.partition("@")[0] if is_hub_model(record) else ""


def is_hub_model(record: Record) -> bool:
    """Whether the model is from the hub: its identity is a commit there, not a hash of files."""
    return not record.model_identity.startswith("sha256:")


def public_model(record: Record) -> str:
    """The reference of the record's model without the folders of this machine."""
    if is_hub_model(record) or record.model == BUILTIN_MODEL:
        return record.model
    return record.model.rstrip("/").rpartition("/")[2]


def public_name(reference: str) -> str:
    """A reference without the folders of this machine."""
    if reference.startswith(("file:", "upload:")):
        kind, _, path = reference.partition(":")
        return f"{kind}:{_last_part(path)}"
    return _last_part(reference) if reference.startswith(("/", "~", ".")) else reference


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
