"""SparseDash: what would pruning cost this language model? From Python: docs/python.md."""

from typing import TYPE_CHECKING

from sparsedash.schema import __version__ as __version__

__all__ = [
    "Comparison",
    "MethodSettings",
    "Proof",
    "PrunedModel",
    "Record",
    "SearchResult",
    "SparseDashError",
    "Step",
    "Tolerance",
    "compare",
    "evaluate",
    "export",
    "find",
    "prune",
]

if TYPE_CHECKING:
    from sparsedash.api import (
        Comparison,
        PrunedModel,
        SearchResult,
        compare,
        evaluate,
        export,
        find,
        prune,
    )
    from sparsedash.schema.errors import SparseDashError
    from sparsedash.schema.export_settings import Proof
    from sparsedash.schema.method_settings import MethodSettings
    from sparsedash.schema.progress import Step
    from sparsedash.schema.records import Record
    from sparsedash.schema.tolerance_settings import Tolerance
else:

    def __getattr__(name: str) -> object:
        """A name of `__all__`, imported when first asked for: it brings torch along, which the
        pages do without.
        """
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from sparsedash import api

        globals()[name] = value = getattr(api, name)
        return value

    def __dir__() -> list[str]:
        return list({*globals(), *__all__})
