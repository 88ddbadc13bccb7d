"""The sparse model of a record, made again from the dense one, its statistics and its settings: to the bit the same."""

from dataclasses import dataclass, replace

from sparsedash.engine.models.loading import LoadedModel, ModelShelf, Source
from sparsedash.engine.models.products import fastest_products
from sparsedash.engine.run.sparse_model import SparseModel
from sparsedash.engine.run.stages import Stages
from sparsedash.schema.errors import JobError
from sparsedash.schema.progress import OnStep
from sparsedash.schema.records import Record
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import Store


@dataclass(frozen=True, eq=False, kw_only=True)
class RemadeModel:
    """loaded: the dense model. sparse: what it becomes, not applied yet; None for a dense record.

    calibration_identity: of the text that it was made with; empty where none was read.
    """

    source: Source
    loaded: LoadedModel
    sparse: SparseModel | None
    calibration_identity: str = ""


def remade(record: Record, store: Store, on_step: OnStep, shelf: ModelShelf) -> RemadeModel:
    """The model that gave a record's answers. Raises JobError where the model that it names is another one by now."""
    settings = RunSettings(model=record.model, dtype=record.dtype)
    if record.pruned is not None:
        settings = replace(settings, calibration=record.pruned.calibration, methods=(record.pruned.method,))
    stages = Stages(settings, store, on_step, shelf)
    if stages.source.identity != record.model_identity:
        raise JobError(f"{record.model} is not what it was when this result was made.", "Run it again.")
    if record.pruned is None:
        return RemadeModel(source=stages.source, loaded=stages.loaded, sparse=None)
    method = record.pruned.method
    with fastest_products(record.dtype):
        sparse = stages.prune(method, record.pruned.sparsity_permille)
    return RemadeModel(
        source=stages.source,
        loaded=stages.loaded,
        sparse=sparse,
        calibration_identity=stages.calibration_identity(method) if method.reads_text else "",
    )
