"""What the models of a run are called: in lists and addresses, on a line of a chart, on a card, while one is made."""

from collections.abc import Iterable

from sparsedash.reporting import wording
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Record, Run
from sparsedash.schema.settings import RunSettings

DENSE = "dense"


def record_name(record: Record, several_methods: bool) -> str:
    """ "dense", "20 %", or "magnitude 20 %" where a run has several methods. Unique within a run."""
    if record.pruned is None:
        return DENSE
    return _sparse_name(record.pruned.method, record.sparsity_permille, several_methods)


def record_names(run: Run) -> list[tuple[str, str]]:
    """The keys of a run's records with their names in it, dense first. Sparse ones come method by method."""
    several = has_several_methods(run.settings)
    names = [_sparse_name(method, permille, several) for method, permille in run.settings.points]
    return [(run.dense, DENSE), *zip(run.sparse, names, strict=False)]


def line_name(method: MethodSettings, several_methods: bool) -> str:
    """The label of a method's line in a chart: "sparse", or "magnitude" where a run has several methods."""
    return wording.method(method) if several_methods else "sparse"


def card_name(method: MethodSettings, permille: int, several_methods: bool) -> str:
    """ "20 % of the MLP removed", or "magnitude, 20 % of the MLP removed" where a run has several methods."""
    name = f"{wording.method(method)}, " if several_methods else ""
    return f"{name}{wording.permille(permille)} {wording.of_what(method)} {wording.gone(method)}"


def name_while_made(method: MethodSettings, permille: int) -> str:
    """ "magnitude, 20 % removed": what a job is making, or asking, just now."""
    return f"{wording.method(method)}, {wording.permille(permille)} {wording.gone(method)}"


def has_several_methods(settings: RunSettings) -> bool:
    """Whether names within this run have to say the method."""
    return len(settings.methods) > 1


def taken_by(methods: Iterable[MethodSettings]) -> str:
    """What the sparsity of models made by these methods is a share of, for an axis that holds them all."""
    masks = any(not method.takes_channels for method in methods)
    return "MLP channels removed, or MLP weights set to zero" if masks else "MLP channels removed"


def _sparse_name(method: MethodSettings, permille: int, several_methods: bool) -> str:
    asked = f"{permille / 10:g} %"
    return f"{wording.method(method)} {asked}" if several_methods else asked
