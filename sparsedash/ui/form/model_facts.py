"""What is said of a model under its field, as soon as it is named."""

from sparsedash.reporting import wording
from sparsedash.service.backend import Backend
from sparsedash.ui.form.fields import hint


def show_facts(backend: Backend, model: str) -> None:
    """Draw family and sizes as far as they are known without loading it, or that they are not."""
    named = backend.named_model(model)
    if named is None:
        hint("It is not on this machine yet: family, memory and time are known once it has been read.")
        return
    counted = named.counted
    if counted is None:
        hint(f"Family: {named.family}. Its sizes, and so memory and time, are known once it has been read.")
        return
    family = f"Family: {named.family}. " if named.family else ""
    widths = sorted(set(counted.widths))
    width = f"{widths[0]:,}" if len(widths) == 1 else f"{widths[0]:,} to {widths[-1]:,}"
    hint(
        f"{family}{len(counted.widths)} blocks of {width} channels, "
        f"{wording.weights(counted.n_parameters)} weights, {wording.size(4 * counted.n_parameters)} in FP32."
    )
