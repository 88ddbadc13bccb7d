"""Model families: paths to their decoder blocks and MLPs, refused configs, and the export forms of
their sparse models.

One row adds a family. The keys are values of `model_type` in config.json.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from sparsedash.schema.errors import SettingsError, install_command
from sparsedash.schema.export_settings import Form
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned
from sparsedash.schema.settings import BUILTIN_MODEL
from sparsedash.schema.sparse_spec import SparseSpec

Bias = bool | tuple[str, bool]
"""Whether there is a bias, or the config's key for it with the family's default."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths to the parts that are pruned, and the parameters beside the projections' weights; as
    LLaMA without biases.

    blocks: from the model to the list of decoder blocks. inner, out: from a block to its
    projections. fused: parts in one inner projection. width: the key of config.json that says the
    inner width; empty where the family has none, and its code knows one width only. norms: of a
    block, vectors of the hidden width; twice as many where they have a bias.
    outer: the same outside of the blocks. tied: whether the head shares the embedding's weights
    where the config is silent. positions: the config's key for learned positions, and how many more
    there are. head_norm: vectors of one head's width in a block.
    """

    blocks: str = "model.layers"
    inner: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    out: str = "mlp.down_proj"
    fused: int = 1
    width: str = "intermediate_size"
    norms: int = 2
    outer: int = 1
    qkv_bias: Bias = False
    out_bias: Bias = False
    mlp_bias: Bias = False
    tied: bool = False
    positions: tuple[str, int] = ("", 0)
    head_bias: bool = False
    head_norm: int = 0

    @property
    def mlp(self) -> tuple[str, ...]:
        """Paths from a block to all projections of its MLP."""
        return (*self.inner, self.out)


_ATTENTION_BIAS = ("attention_bias", False)
_GATED = Family(qkv_bias=_ATTENTION_BIAS, out_bias=_ATTENTION_BIAS)


def _biases(bias: Bias) -> dict[str, Any]:
    """The same bias of all projections of a block."""
    return {"qkv_bias": bias, "out_bias": bias, "mlp_bias": bias}


_NEOX = Family(
    blocks="transformer.h",
    inner=("mlp.dense_h_to_4h",),
    out="mlp.dense_4h_to_h",
    norms=4,
    outer=2,
    **_biases(True),
)
_GPT = replace(_NEOX, inner=("mlp.c_fc",), out="mlp.c_proj", tied=True)

FAMILIES = {
    "bloom": replace(_NEOX, width="", outer=4, tied=True),
    "falcon": replace(_NEOX, width="ffn_hidden_size", tied=True, **_biases(("bias", False))),
    "gemma": replace(_GATED, tied=True),
    "gemma2": replace(_GATED, norms=4, tied=True),
    "gemma3_text": replace(_GATED, norms=4, tied=True, head_norm=2),
    "gpt2": replace(_GPT, width="n_inner", positions=("n_positions", 0)),
    "gpt_neo": replace(_GPT, qkv_bias=False, positions=("max_position_embeddings", 0)),
    "gpt_neox": replace(
        _NEOX, blocks="gpt_neox.layers", **_biases(("attention_bias", True)) | {"mlp_bias": True}
    ),
    "gptj": Family(
        blocks="transformer.h",
        inner=("mlp.fc_in",),
        out="mlp.fc_out",
        width="n_inner",
        outer=2,
        mlp_bias=True,
        head_bias=True,
    ),
    "granite": replace(_GATED, mlp_bias=("mlp_bias", False)),
    "llama": replace(_GATED, mlp_bias=("mlp_bias", False)),
    "mistral": Family(),
    "olmo2": _GATED,
    "opt": replace(
        _GPT,
        blocks="model.decoder.layers",
        inner=("fc1",),
        out="fc2",
        width="ffn_dim",
        positions=("max_position_embeddings", 2),
        **_biases(("enable_bias", True)),
    ),
    "phi": replace(
        _NEOX, blocks="model.layers", inner=("mlp.fc1",), out="mlp.fc2", norms=2, head_bias=True
    ),
    "phi3": Family(inner=("mlp.gate_up_proj",), fused=2),
    "qwen2": Family(qkv_bias=True),
    "qwen3": replace(_GATED, head_norm=2),
    "smollm3": replace(_GATED, mlp_bias=("mlp_bias", False), tied=True),
    "starcoder2": replace(_GPT, blocks="model.layers", **_biases(("use_bias", True))),
}

MOST_LAYERS = 2_000
_SIZES = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers"), (1, MOST_LAYERS)),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), (1, 10_000)),
    **dict.fromkeys(("hidden_size", "n_embd"), (1, 1_000_000)),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim"), (1, 10_000_000)),
    "vocab_size": (1, 100_000_000),
    # transformers makes a dictionary of as many names, and a list of as many layers.
    "num_labels": (0, 10_000),
    "attention_types": (0, MOST_LAYERS),
}
"""Least and most of a size, by its names in the families' configs; what is not said has the
family's usual value.
"""


def config_problem(config: Mapping[str, Any], name: object) -> str:
    """Why a model with this config.json cannot be pruned; empty where nothing speaks against it.
    name: of the model.
    """
    family = config.get("model_type", "")
    if family == "":
        return f"the config of {name} has no model_type. Fetch or save the model again."
    if not isinstance(family, str) or family not in FAMILIES:
        return f"models of type {str(family)[:40]!r} cannot be pruned yet; possible: {', '.join(FAMILIES)}."
    if config.get("quantization_config") is not None:
        return (
            f"the weights in {name} are quantised, and a sparse model is computed from full ones. "
            "Name the model that it was made from, or a GGUF file of it."
        )
    for size, value in _sizes(config):
        least, most = _SIZES[size]
        if type(value) is not int or not least <= value <= most:
            return f"the config of {name} says {size} = {str(value)[:40]}; possible: {least} to {most:,}."
    if config.get("slow_but_exact") is True and config.get("pretraining_tp", 1) != 1:
        return f"the config of {name} says slow_but_exact = True; possible: False. Change it: no weight depends on it."
    if config.get("return_dict") is False:
        return f"the config of {name} says return_dict = False; possible: True. Change it: no weight depends on it."
    for size, causal in ("is_causal", True), ("use_bidirectional_attention", False):
        if (value := config.get(size)) is not None and bool(value) != causal:
            return f"the config of {name} says {size} = {str(value)[:40]}: a model that sees what it is to predict."
    return ""


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Every size that this config states."""
    for name in _SIZES:
        value = config.get(name)
        if name == "attention_types" and isinstance(value, list):
            # GPT-Neo lists patterns of layers, each with how often it is repeated.
            with suppress(TypeError, ValueError):
                value = sum(len(kinds) * abs(n) for kinds, n in value)
        if value is not None:
            yield name, value


FORMS: dict[Form, str] = {
    "uniform": "every block the same narrower width, or fewer blocks: small, loads wherever the base does",
    "padded": "each block's own width, padded with zeros to the widest: loads wherever the base does, saves less",
    "masked": "the dense model's shape with zeros in it: loads wherever the base does, saves nothing",
    "gguf": "one file for llama.cpp, the one stock runtime where every block may keep its own width",
}
"""Export forms, each with one line of description."""

PER_LAYER = {"llama": "deci", "qwen2": "deci", "qwen3": "openelm"}
"""By a GGUF file's architecture, the one under which llama.cpp reads a width for each block and
runs the same graph.
"""


MADE_GGUF = {
    **dict.fromkeys(("llama", "mistral"), "llama"),
    **{kind: kind for kind in ("qwen2", "qwen3", "gemma2")},
    "gemma3_text": "gemma3",
}
"""Families of which a GGUF file can be made here, where the model is a folder: the architecture
that it has there.
"""
NO_GGUF = ("gpt_neo", "gptj", "opt")
"""Families for which llama.cpp has no graph."""
BIASED_GGUF = ("llama", "mistral", "gpt2", "bloom", "starcoder2")
"""Families whose graph in llama.cpp adds a bias to what an MLP gives."""
COUNTED_LAYERS = ("gemma2", "gemma3_text", "smollm3")
"""Families for which llama.cpp takes from a layer's number which attention it has."""


def is_gguf(model: str) -> bool:
    """Whether the model is one .gguf file, as the built-in one is."""
    return model == BUILTIN_MODEL or model.endswith(".gguf")


def _no_llama_cpp() -> str:
    """Why llama.cpp cannot be used, without a final full stop; "" where it is installed."""
    command = install_command("-r requirements-gguf.txt")
    return (
        ""
        if find_spec("llama_cpp_py_sync")
        else f"llama.cpp, which “{command}” installs, is missing"
    )


def llama_cpp_problem(
    model: str, model_type: str | None = None, methods: Iterable[MethodSettings] = ()
) -> str:
    """Why llama.cpp can neither round nor run this model here; empty where it can.

    model_type: None if not known. methods: of its sparse models.
    """
    if missing := _no_llama_cpp():
        return missing
    if model_type in NO_GGUF:
        return f"llama.cpp has no graph for {model_type}"
    if not is_gguf(model) and model_type not in (None, *MADE_GGUF):
        return f"a quantised file is made from the dense model's GGUF file, and none of {model_type} can be made here"
    return next(filter(None, (_bias_problem(method, model_type) for method in methods)), "")


def _bias_problem(method: MethodSettings, model_type: str | None) -> str:
    """Why llama.cpp cannot run the biases that this method adds to the family, or ""."""
    if method.compensation != "bias" or model_type in (None, *BIASED_GGUF):
        return ""
    return f"compensation by a bias gives its blocks one, for which llama.cpp's graph of {model_type} has no place"


def form_problem(form: Form, made: Pruned, model_type: str | None) -> str:
    """Why this sparse model cannot be written in this form; empty where it can. model_type: None:
    not known.

    Whether a GGUF file can be written depends on the dense model's as well, and is known when that
    is read.
    """
    return _problem(form, made.spec, model_type, is_even=one_width(made.widths))


def require_form(form: Form, spec: SparseSpec, model_type: str | None = None) -> None:
    """Raise SettingsError where this model cannot be written in this form.

    Asked before there is such a model; as far as the model's type is known.
    """
    is_even = spec.pruning.is_block_local
    problem = _problem(form, spec, model_type, is_even=is_even)
    if not problem:
        return
    possible = [name for name in FORMS if not _problem(name, spec, model_type, is_even=is_even)]
    allowed = ", ".join(possible) or "none with this method"
    raise SettingsError("form", form, f"one of these: {allowed}", f"Reason: {problem}.")


def _problem(form: Form, spec: SparseSpec, model_type: str | None, *, is_even: bool) -> str:
    method = spec.pruning
    family = FAMILIES.get(model_type or "")
    if spec.is_quantised:
        instead = f"A sparse one is exported as gguf in {spec.weights} from the model before that"
        return f"it is quantised already. {instead}"
    if form == "gguf" and (missing := _no_llama_cpp()):
        # No file is exported without its proof.
        return missing
    if form == "gguf" and model_type in NO_GGUF:
        return f"llama.cpp has no graph for {model_type}"
    if method.removes_layers:
        if form == "gguf" and model_type in COUNTED_LAYERS:
            return f"llama.cpp takes from a layer's number which attention it has in {model_type}"
        if form in ("padded", "masked"):
            return "whole layers are gone, and nothing is left to fill up"
        return ""
    if form == "gguf" and (problem := _bias_problem(method, model_type)):
        return problem
    unbiased = family is not None and (len(family.inner) > 1 or not family.mlp_bias)
    if method.compensation == "bias" and form != "gguf" and unbiased:
        return "its blocks were given a bias, for which this family's stock code has no place"
    if not method.is_structured:
        if form == "masked":
            return ""
        return "single weights were set to zero, and no channel was removed"
    if form == "uniform" and family is not None and not family.width:
        return (
            f"the code of {model_type} computes its width from the hidden one, and reads no other"
        )
    if form == "uniform" and not is_even:
        return "its blocks have different widths"
    return ""


def one_width(widths: Sequence[int]) -> bool:
    """Whether every block that is left has the same width."""
    return len(set(widths) - {0}) == 1


def fewer_layers(config: Mapping[str, Any], kept: Sequence[int]) -> dict[str, Any]:
    """What changes in a config.json, given with all defaults, where only these layers are left."""
    changed: dict[str, Any] = {name: len(kept) for name in _N_LAYERS if config.get(name)}
    depths = {config[name] for name in changed}
    for name, value in config.items():
        is_of_layers = isinstance(value, list) and len(value) in depths
        if is_of_layers and name not in _NOT_OF_LAYERS and "token" not in name:
            changed[name] = [value[index] for index in kept]
    if config.get("per_layer_config"):
        of_layers = {int(index): values for index, values in config["per_layer_config"].items()}
        changed["per_layer_config"] = {
            place: of_layers[index] for place, index in enumerate(kept) if index in of_layers
        }
    if "max_window_layers" in config:
        # The list says it of each layer; vLLM's Qwen 2 wants the number to be that of all.
        changed["max_window_layers"] = len(kept)
    if "attention_layers" in changed:
        # GPT-Neo counts patterns, from which its code makes that list.
        changed["attention_types"] = [[[kind], 1] for kind in changed["attention_layers"]]
    return changed


_N_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
_NOT_OF_LAYERS = ("architectures", "attention_types")
"""Lists that may be as long as a model is deep, and say nothing of its layers."""


def shared_width(made: Pruned, model_type: str) -> int:
    """The width blocks are padded to: the widest's, or dense's where the family fixes it."""
    return max(made.widths) if FAMILIES[model_type].width else max(made.dense_widths)


def forms_filled_up(made: Pruned, model_type: str | None) -> tuple[Form, ...]:
    """Forms in which all blocks are filled up to the dense width, so that nothing is saved. None:
    no type is known.
    """
    width = shared_width(made, model_type) if model_type in FAMILIES else max(made.widths)
    if width < max(made.dense_widths):
        return ()
    # llama.cpp has a graph with a width for each block for few families; the others' files are
    # filled up as well.
    own_widths = model_type is None or MADE_GGUF.get(model_type, model_type) in PER_LAYER
    return ("padded",) if own_widths else ("padded", "gguf")
