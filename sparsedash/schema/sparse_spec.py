"""The specification of one model of a run: how it is pruned, healed and quantised."""

from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, get_args

from sparsedash.schema.errors import SettingsError
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.plain_values import Count, Permille, digest, require_whole
from sparsedash.schema.stage_versions import STAGE_VERSIONS

Quantisation = Literal["q8_0", "q6_k", "q4_k_m", "q4_0"]
"""Types of llama.cpp's quantiser: bits of a weight; q6_k and q4_k_m take rows that are multiples of
256, others fall back to another type.
"""

ROW_MULTIPLE: dict[str, int] = {"q6_k": 256, "q4_k_m": 256}
"""Multiples that rows of a tensor, and so the widths, must be of, where that is not 32."""

MAX_HEAL_STEPS = 10_000

REMOVES_NOTHING = MethodSettings(saliency="magnitude", compensation="none")
"""The choices that stand for those of the dense model: they read no text."""


@dataclass(frozen=True)
class SparseSpec:
    """One model: a pruning method at a sparsity, then healed, then quantised.

    method: None for the dense model; at 0 per mille a method removes nothing, which is dense.
    heal_steps: of training by the dense model. quantise: the type that all weights are rounded
    to in the end, or empty; without a method it is the dense model quantised.
    Raises SettingsError where single weights are set to zero and the model is to be healed or
    quantised.
    """

    method: MethodSettings | None = None
    permille: Permille = 0
    heal_steps: Count = 0
    quantise: Quantisation | Literal[""] = ""

    def __post_init__(self) -> None:
        require_whole("heal steps", self.heal_steps, 0, MAX_HEAL_STEPS)
        if self.quantise not in ("", *get_args(Quantisation)):
            allowed = ", ".join(get_args(Quantisation))
            raise SettingsError("quantise", self.quantise, f"one of {allowed}")
        if self.method is None or self.permille == 0:
            object.__setattr__(self, "method", None)
            object.__setattr__(self, "permille", 0)
            object.__setattr__(self, "heal_steps", 0)
        elif not self.method.can_be_healed:
            pattern = self.method.pattern
            if self.heal_steps:
                self._refuse_experts("healing", "healed")
                raise SettingsError(
                    "heal steps", self.heal_steps, f"0 with pattern {pattern}"
                )
            if self.quantise:
                self._refuse_experts("quantise", "quantised")
                raise SettingsError(
                    "quantise", self.quantise, f"nothing with pattern {pattern}"
                )

    def _refuse_experts(self, name: str, verb: str) -> None:
        if self.pruning.prunes_experts:
            raise SettingsError(
                name,
                message=f"Models with fewer or narrower experts cannot be {verb} here.",
                advice="Leave it out, or choose a method that removes layers, or channels of MLPs.",
            )

    @property
    def is_healed(self) -> bool:
        """Whether the dense model trains it."""
        return self.heal_steps > 0

    @property
    def is_quantised(self) -> bool:
        """Whether its weights are rounded to a type of llama.cpp."""
        return self.quantise != ""

    @property
    def weights(self) -> Literal["float16", "q8_0", "q6_k", "q4_k_m", "q4_0"]:
        """The type of its weights in a GGUF file."""
        return self.quantise or "float16"

    @property
    def pruning(self) -> MethodSettings:
        """The method; of the dense model choices that remove nothing."""
        return self.method or REMOVES_NOTHING

    @property
    def before_quantising(self) -> "SparseSpec":
        """The model whose weights are quantised; the same where none are."""
        return replace(self, quantise="")

    @property
    def before_healing(self) -> "SparseSpec":
        """The pruned model, neither healed nor quantised."""
        return replace(self, heal_steps=0, quantise="")

    @property
    def reads_text(self) -> bool:
        """Whether the model depends on the calibration text."""
        return self.method is not None and (self.method.reads_text or self.is_healed)

    @property
    def needs_later_blocks(self) -> bool:
        """Whether a block depends on more than the first pass of the calibration text up to it."""
        return self.pruning.needs_later_blocks or self.is_healed or self.is_quantised

    def method_document(self) -> dict[str, Any]:
        """The choices of pruning, the steps of healing and the type, as JSON values."""
        added = {"heal_steps": self.heal_steps, "quantise": self.quantise}
        return asdict(self.pruning) | added

    @property
    def key(self) -> str:
        """Digest of what makes the model, beside dense and the text; empty for the dense model."""
        if self == DENSE:
            return ""
        values = {
            name: value for name, value in asdict(self).items() if name != "method"
        }
        if self.method is not None:
            values["method"] = relevant_parameters(self.method)
        if self.heal_steps:
            values["mix"] = self.pruning.mix
            values["healed_version"] = STAGE_VERSIONS["healed"]
        if self.quantise:
            values["quantiser"] = quantiser_version()
            values["quantised_version"] = STAGE_VERSIONS["quantised"]
        return digest(values)


DENSE = SparseSpec()
"""The dense model."""


def relevant_parameters(method: MethodSettings) -> dict[str, Any]:
    """The parameters that a method's choices use, and the versions of what it rests on."""
    rests_on = {
        "gradients": method.by_gradient,
        "inputs": method.needs_statistics and not method.is_structured,
        "curves": method.needs_curves,
        "order": method.removes_layers and method.reads_text,
        "allocation": method.allocation in ("global", "standardised"),
        "pruned": method.in_sequence or method.prunes_experts,
        "solve": method.uses("damping"),
        "elimination": method.eliminates and method.is_structured,
        "random": method.saliency == "random"
        and not (method.removes_layers or method.prunes_experts),
    }
    used = {name: value for name, value in asdict(method).items() if method.uses(name)}
    versions = {
        f"{stage}_version": STAGE_VERSIONS[stage]
        for stage, rests in rests_on.items()
        if rests
    }
    return used | versions


def quantiser_version() -> str:
    """The installed version of llama.cpp's binding, which quantises; empty where there is none."""
    try:
        return version("llama-cpp-py-sync")
    except PackageNotFoundError:
        return ""
