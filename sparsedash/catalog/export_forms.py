"""In which forms a sparse model can be written, and why not in the others: from its widths and its family alone."""

from collections.abc import Sequence

from sparsedash.catalog.families import FAMILIES
from sparsedash.schema.errors import SettingsError
from sparsedash.schema.exports import Form
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.records import Pruned

FORMS: dict[Form, str] = {
    "uniform": "every block the same narrower width: small, loads wherever the base does",
    "padded": "each block's own width, filled up with zeros to the widest: loads wherever the base does, saves less",
    "masked": "the dense model's shape with zeros in it: loads wherever the base does, saves nothing",
    "gguf": "one file for llama.cpp, the one stock runtime where every block may keep its own width",
}
"""What each form is, in a line."""

PER_LAYER = {"llama": "deci", "qwen2": "deci", "qwen3": "openelm"}
"""By a GGUF file's architecture, the one under which llama.cpp reads a width for each block and runs the same graph."""


NO_GGUF = ("gpt_neo", "gptj", "opt")
"""Families for which llama.cpp has no graph."""

_UNEVEN = "its blocks have different widths, and this form has one; choose padded, gguf or an even method"


def form_problem(form: Form, made: Pruned, model_type: str | None) -> str:
    """Why this sparse model cannot be written in this form; empty where it can. model_type: None: not known.

    Whether a GGUF file can be written depends on the dense model's as well, and is known when that is read.
    """
    problem = _method_problem(form, made.method, model_type)
    if not problem and form == "uniform" and not one_width(made.widths):
        return _UNEVEN
    return problem


def require_form(form: Form, method: MethodSettings, permille: int, model_type: str | None = None) -> None:
    """Raise SettingsError where what this method makes at this sparsity cannot be written in this form.

    Asked before there is such a model; as far as the model's type is known.
    """

    def problem_of(form: Form) -> str:
        uneven = form == "uniform" and method.allocation != "uniform" and permille > 0
        return _method_problem(form, method, model_type) or (_UNEVEN if uneven else "")

    if problem := problem_of(form):
        possible = ", ".join(other for other in FORMS if not problem_of(other))
        raise SettingsError("form", form, possible or "none with this method", f"Reason: {problem}.")


def _method_problem(form: Form, method: MethodSettings, model_type: str | None) -> str:
    """Why nothing that this method makes of such a model can be written in this form."""
    family = FAMILIES.get(model_type or "")
    if form == "gguf" and model_type in NO_GGUF:
        return f"llama.cpp has no graph for {model_type}"
    if method.compensation == "bias" and form != "gguf" and family is not None and len(family.inner) > 1:
        return "its blocks were given a bias, for which this family's stock code has no place"
    if not method.takes_channels:
        return "" if form == "masked" else "single weights were set to zero, and no channel has left"
    if form == "uniform" and family is not None and not family.width:
        return f"the code of {model_type} computes its width from the hidden one, and reads no other"
    return ""


def one_width(widths: Sequence[int]) -> bool:
    """Whether every block has the same width."""
    return len(set(widths)) == 1


def shared_width(made: Pruned, model_type: str) -> int:
    """The width that blocks are filled up to: the widest's, or the dense one's where the family reads no other."""
    return max(made.widths) if FAMILIES[model_type].width else max(made.dense_widths)
