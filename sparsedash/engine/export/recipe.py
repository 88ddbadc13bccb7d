"""Recipe of an export, JSON with every setting and hash; and the licence that the base states.

The recipe is public: of local paths it holds names only.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict

from huggingface_hub import metadata_load
from yaml import YAMLError

from sparsedash.catalog.gguf_reader import opened_gguf
from sparsedash.engine.models.hub import fetch
from sparsedash.engine.models.locating import Source, gguf_file
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.run.model_making import RebuiltModel
from sparsedash.engine.run.run_context import software_versions
from sparsedash.schema.card_facts import is_hub_model, public_model, public_name
from sparsedash.schema.errors import ModelError
from sparsedash.schema.export_settings import CARD, ExportSettings, Proof
from sparsedash.schema.records import Record

_LONGEST = 60


def base_licence(source: Source, record: Record) -> str:
    """The licence that the base states in its GGUF file or its card; empty where it states none.

    Models are downloaded without their card, so it is fetched if possible. source: the base's
    files.
    """
    if file := gguf_file(record.model):
        with suppress(ValueError):
            field = opened_gguf(file).fields.get("general.license")
            return _licence_name(field and field.contents())
        return ""
    card = source.folder / CARD
    if is_hub_model(record) and not card.is_file():
        with suppress(ModelError):
            # The folder is named by its commit.
            fetch(record.model, source.folder.name, CARD)
    with suppress(OSError, ValueError, YAMLError, RecursionError):
        return _licence_name((metadata_load(card) or {}).get("license"))
    return ""


def _licence_name(stated: object) -> str:
    """A licence's name, or nothing where it cannot be one."""
    if isinstance(stated, str) and len(stated) < _LONGEST and stated.isprintable():
        return stated
    return ""


def recipe_json(
    settings: ExportSettings,
    record: Record,
    rebuilt: RebuiltModel,
    proof: Proof,
    files: Mapping[str, str],
) -> str:
    """The recipe as JSON. files: the sha256 of each other file by its name."""
    pruned = record.pruned
    sparse = rebuilt.sparse
    assert pruned is not None
    kept = None
    if isinstance(sparse, PrunedChannels):
        kept = [narrow.kept.tolist() for narrow in sparse.blocks]
    calibration_text = public_name(pruned.calibration.corpus)
    document = {
        "made_by": software_versions(),
        "export": settings.key(),
        "form": settings.form,
        "weights": settings.weights,
        "shard_mb": settings.shard_mb,
        "base": {
            "model": public_model(record),
            "identity": record.model_identity,
            "dtype": record.dtype,
        },
        "method": pruned.spec.method_document(),
        "sparsity_permille": pruned.sparsity_permille,
        "calibration": asdict(pruned.calibration) | {"corpus": calibration_text},
        "calibration_identity": rebuilt.calibration_identity,
        "dense_widths": list(pruned.dense_widths),
        "widths": list(pruned.widths),
        "healed": pruned.healed and asdict(pruned.healed),
        "kept_channels": kept,
        "evaluation": {
            "corpus": public_name(record.corpus),
            "identity": record.corpus_identity,
        },
        "proof": asdict(proof),
        "sha256": dict(files),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
