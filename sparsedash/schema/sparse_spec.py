"""The specification of one model of a run: how it is pruned, healed and quantised."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from sparsedash.schema.method_settings import MethodSettings, Quantisation, quantised_dense
from sparsedash.schema.plain_values import Count, Permille


@dataclass(frozen=True)
class SparseSpec:
    """One model: a pruning method at a sparsity, then healed, then quantised.

    method: None for the dense model; at 0 per mille a method removes nothing, which is dense.
    heal_steps: of training by the dense model. quantise: the type that all weights are rounded
    to in the end, or empty; with method None it is the dense model quantised.
    """

    method: MethodSettings | None = None
    permille: Permille = 0
    heal_steps: Count = 0
    quantise: Quantisation | Literal[""] = ""

    def __post_init__(self) -> None:
        if self.method is None or self.permille == 0:
            object.__setattr__(self, "method", None)
            object.__setattr__(self, "permille", 0)
            object.__setattr__(self, "heal_steps", 0)

    @property
    def is_dense(self) -> bool:
        """Whether it is the dense model as it is, neither pruned nor quantised."""
        return self.method is None and not self.quantise

    @property
    def before_quantising(self) -> "SparseSpec":
        """The model whose weights are quantised; the same where none are."""
        return replace(self, quantise="")

    @property
    def before_healing(self) -> "SparseSpec":
        """The pruned model that is healed, not quantised."""
        return replace(self, heal_steps=0, quantise="")

    # Until every caller reads the spec itself: the method that holds all of it, and the sparsity.
    @property
    def nested(self) -> MethodSettings:
        """The method with its healing and its type."""
        if self.method is None:
            assert self.quantise
            return quantised_dense(self.quantise)
        return replace(self.method, heal_steps=self.heal_steps, quantise=self.quantise)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.nested, self.permille))

    def __getitem__(self, index: int) -> Any:
        return (self.nested, self.permille)[index]

    @classmethod
    def of(cls, method: MethodSettings, permille: int) -> "SparseSpec":
        """The spec of a method that holds healing and type."""
        plain = replace(method, heal_steps=0, quantise="")
        return cls(plain, permille, method.heal_steps, method.quantise)


DENSE = SparseSpec()
"""The dense model."""
