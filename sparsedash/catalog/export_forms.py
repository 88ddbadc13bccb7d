"""Forms in which a sparse model is exported, and which of them it has.

The keys of the tables for llama.cpp are values of `model_type` in config.json.
"""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from sparsedash.schema.errors import SettingsError, install_command
from sparsedash.schema.export_settings import Form
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.model_shape import ModelShape
from sparsedash.schema.records import Pruned
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.schema.sparse_spec import SparseSpec

FORMS: dict[Form, str] = {
    "uniform": "every block the same narrower width, or fewer blocks or experts: small, loads wherever the base does",
    "padded": "each block's own width, padded with zeros to the widest: loads wherever the base does, saves less",
    "masked": "the dense model's shape with zeros in it: loads wherever the base does, saves nothing",
    "gguf": "one file for llama.cpp, the one stock runtime where every block may keep its own width",
}
"""Export forms, each with one line of description."""

PER_LAYER = {
    "llama": "deci",
    "qwen2": "deci",
    "qwen3": "openelm",
    "gemma4": "gemma4",
    "nemotron_h": "nemotron_h",
}
"""By a GGUF file's architecture, the one under which llama.cpp reads a width for each block and
runs the same graph.
"""

MADE_GGUF = {
    **dict.fromkeys(("llama", "mistral"), "llama"),
    **{kind: kind for kind in ("qwen2", "qwen3", "gemma2", "olmoe")},
    "gemma3_text": "gemma3",
    "qwen3_moe": "qwen3moe",
}
"""Types of which a GGUF file can be made here, where the model is a folder: the architecture
that it has there.
"""
MIXTURE_GGUF = ("olmoe", "qwen3_moe")
"""Types with experts of which a GGUF file can be written with fewer or narrower ones."""
LOST_WITHOUT_REFIT = "1.7 to 4.4 times as much"
"""What reap loses at 50 % as a multiple of experts, which refits (docs/results.md)."""
NO_GGUF = ("gpt_neo", "gptj", "opt")
"""Types for which llama.cpp has no graph."""
BIASED_GGUF = ("llama", "mistral", "gpt2", "bloom", "starcoder2")
"""Types whose graph in llama.cpp adds a bias to what an MLP gives."""
COUNTED_LAYERS = ("gemma2", "gemma3_text", "smollm3")
"""Types for which llama.cpp takes from a layer's number which attention it has."""


def is_gguf(model: str) -> bool:
    """Whether the model is one .gguf file, as the built-in one is."""
    return model == BUILTIN_MODEL or model.endswith(".gguf")


def _no_llama_cpp() -> str:
    """The reason llama.cpp cannot be used, without a full stop; "" if it is installed."""
    command = install_command("-r requirements-gguf.txt")
    return (
        ""
        if find_spec("llama_cpp_py_sync")
        else f"llama.cpp, which “{command}” installs, is missing"
    )


def llama_cpp_problem(
    model: str, model_type: str | None = None, methods: Iterable[MethodSettings] = ()
) -> str:
    """The reason llama.cpp can neither round nor run this model here; empty if it can.

    model_type: None if not known. methods: of its sparse models.
    """
    if missing := _no_llama_cpp():
        return missing
    if model_type in NO_GGUF:
        return f"llama.cpp has no graph for {model_type}"
    if not is_gguf(model) and model_type not in (None, *MADE_GGUF):
        return f"a quantised file is made from the dense model's GGUF file, and none of {model_type} can be made here"
    if model_type in MIXTURE_GGUF:
        return (
            "mixtures are exported for llama.cpp, and neither quantised nor timed there"
        )
    return next(
        filter(None, (_bias_problem(method, model_type) for method in methods)), ""
    )


def _bias_problem(method: MethodSettings, model_type: str | None) -> str:
    """The reason llama.cpp cannot run the biases that this method adds, or ""."""
    if method.compensation != "bias" or model_type in (None, *BIASED_GGUF):
        return ""
    return f"compensation by a bias gives its blocks one, for which llama.cpp's graph of {model_type} has no place"


def form_problem(form: Form, made: Pruned, shape: ModelShape | None) -> str:
    """The reason this sparse model cannot be written in this form; empty if it can. shape: of the dense
    model; None if not known.

    Whether a GGUF file can be written depends on the dense model's as well, and is known when that
    is read.
    """
    is_even = one_width(made.widths) or made.widths == made.dense_widths
    if shape is not None and not made.method.removes_layers:
        is_even = is_even or shape.structure.width_values(made.widths) is not None
    problem = _problem(form, made.spec, shape, is_even=is_even)
    if (
        problem
        or shape is None
        or form != "uniform"
        or not made.method.removes_channels
    ):
        return problem
    if shape.structure.width_values(made.widths) is None:
        return "its config has no place for this width"
    return ""


def require_form(form: Form, spec: SparseSpec, shape: ModelShape | None = None) -> None:
    """Raise SettingsError where this model cannot be written in this form.

    Asked before there is such a model; as far as the dense one is known.
    """
    is_even = spec.pruning.is_block_local
    problem = _problem(form, spec, shape, is_even=is_even)
    if not problem:
        return
    possible = [
        name for name in FORMS if not _problem(name, spec, shape, is_even=is_even)
    ]
    allowed = ", ".join(possible) or "none with this method"
    raise SettingsError("form", form, f"one of these: {allowed}", f"Reason: {problem}.")


def _problem(
    form: Form, spec: SparseSpec, shape: ModelShape | None, *, is_even: bool
) -> str:
    method = spec.pruning
    model_type = shape.family if shape else None
    structure = shape.structure if shape else None
    if spec.is_quantised:
        instead = f"A sparse one is exported as gguf in {spec.weights} from the model before that"
        return f"it is quantised already. {instead}"
    if form == "gguf" and (missing := _no_llama_cpp()):
        # No file is exported without its proof.
        return missing
    if form == "gguf" and model_type in NO_GGUF:
        return f"llama.cpp has no graph for {model_type}"
    if method.removes_layers:
        if form == "gguf" and structure and structure.mixtures:
            return "of a mixture whole layers are removed in folders alone"
        if form == "gguf" and model_type in COUNTED_LAYERS:
            return f"llama.cpp takes from a layer's number which attention it has in {model_type}"
        if form in ("padded", "masked"):
            return "whole layers are gone, and nothing is left to fill up"
        return ""
    if method.prunes_experts:
        if form == "gguf" and model_type not in (None, *MIXTURE_GGUF):
            return f"with fewer or narrower experts it is written of {' and '.join(MIXTURE_GGUF)} alone"
        if form not in ("uniform", "gguf"):
            return "only files with fewer or narrower experts can be written"
        problem = ""
        if structure:
            problem = structure.expert_width_problem
            if method.removes_experts:
                problem = structure.experts_problem
        return problem and f"stock code makes no such {model_type} model: {problem}"
    if form == "gguf" and structure and structure.mixtures:
        return "of a mixture only fewer or narrower experts can be written for llama.cpp here"
    if form == "gguf" and (problem := _bias_problem(method, model_type)):
        return problem
    if (
        method.compensation == "bias"
        and form != "gguf"
        and structure
        and not structure.out_bias
    ):
        return "its blocks were given a bias, for which its stock code has no place"
    if not method.is_structured:
        if form == "masked":
            return ""
        return "single weights were set to zero, and no channel was removed"
    if form == "uniform" and structure is not None and structure.width_problem:
        return f"stock code makes no narrower {model_type} model: {structure.width_problem}"
    if form == "uniform" and not is_even:
        return "its blocks have different widths"
    return ""


def one_width(widths: Sequence[int]) -> bool:
    """Whether every MLP that is left has the same width."""
    return len(set(widths) - {0}) == 1


def forms_filled_up(made: Pruned, shape: ModelShape | None) -> tuple[Form, ...]:
    """Forms in which all blocks are filled up to the dense width, so that nothing is saved. shape:
    of the dense model; None if not known.
    """
    widths = shape.structure.file_widths(made.widths) if shape else (max(made.widths),)
    if sum(widths) < sum(made.dense_widths[: len(widths)]):
        return ()
    # llama.cpp has a graph with a width for each block for few types; the others' files are filled
    # up as well.
    if shape is None:
        return ("padded",)
    architecture = MADE_GGUF.get(shape.family, shape.family.removesuffix("_text"))
    return ("padded",) if architecture in PER_LAYER else ("padded", "gguf")
