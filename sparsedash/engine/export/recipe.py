"""The recipe beside exported files: everything that the same files can be made from again, as JSON.

It is public with the files: of local paths only the names go into it, with the hashes that tell what they held.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict

from sparsedash.engine.run.remade import RemadeModel
from sparsedash.engine.run.run_log import versions
from sparsedash.engine.run.sparse_model import PrunedChannels
from sparsedash.schema.exports import ExportSettings, Proof
from sparsedash.schema.records import Record
from sparsedash.schema.settings import BUILTIN_MODEL


def recipe(settings: ExportSettings, record: Record, made: RemadeModel, proof: Proof, files: Mapping[str, str]) -> str:
    """The JSON text. files: the sha256 of each of the others by its name."""
    assert record.pruned is not None
    sparse = made.sparse
    kept = [narrow.kept.tolist() for narrow in sparse.narrowed] if isinstance(sparse, PrunedChannels) else None
    pruned = record.pruned
    document = {
        "made_by": versions(),
        "export": settings.key(),
        "form": settings.form,
        "weights": settings.weights,
        "shard_mb": settings.shard_mb,
        "base": {"model": public_model(record), "identity": record.model_identity, "dtype": record.dtype},
        "method": asdict(pruned.method),
        "sparsity_permille": pruned.sparsity_permille,
        "calibration": asdict(pruned.calibration) | {"corpus": public_name(pruned.calibration.corpus)},
        "calibration_identity": made.calibration_identity,
        "dense_widths": list(pruned.dense_widths),
        "widths": list(pruned.widths),
        "kept_channels": kept,
        "evaluation": {"corpus": public_name(record.corpus), "identity": record.corpus_identity},
        "proof": asdict(proof),
        "sha256": dict(files),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def public_name(reference: str) -> str:
    """A reference without the folders of this machine."""
    kind, colon, path = reference.partition(":") if reference.startswith(("file:", "upload:")) else ("", "", reference)
    is_path = bool(colon) or path.startswith(("/", "~", "."))
    return f"{kind}{colon}{path.rstrip('/').rpartition('/')[2] if is_path else path}"


def is_of_hub(record: Record) -> bool:
    """Whether the record's model is of the hub: its identity is a commit there, not a hash of files."""
    return not record.model_identity.startswith("sha256:")


def public_model(record: Record) -> str:
    """The reference of the record's model without the folders of this machine."""
    if is_of_hub(record) or record.model == BUILTIN_MODEL:
        return record.model
    return record.model.rstrip("/").rpartition("/")[2]
