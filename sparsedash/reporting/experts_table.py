"""The experts of a mixture by how often its router chooses them, as a table."""

from collections.abc import Sequence

from sparsedash.reporting.html import Table, Value
from sparsedash.reporting.wording import percent, quantity
from sparsedash.stats.expert_use import ExpertUse


def layer_experts_table(
    experts: Sequence[Sequence[ExpertUse]], index: int, stem: str = ""
) -> Table:
    """The experts of one layer; its file has those of all layers. index: from 0. stem: see `Table`."""
    rows = []
    for expert in experts[index]:
        state = "kept" if expert.is_kept else "✕ removed"
        rows.append(
            [
                str(expert.number),
                state,
                percent(expert.share, 2),
                f"{expert.times_even:.2f} ×",
            ]
        )
    data: list[dict[str, Value]] = []
    for layer, of_layer in enumerate(experts, 1):
        for expert in of_layer:
            values: dict[str, Value] = {
                "layer": layer,
                "expert": expert.number,
                "kept": expert.is_kept,
                "share_of_choices_percent": 100 * expert.share,
                "times_even_share": expert.times_even,
            }
            data.append(values)
    caption = (
        f"{quantity(len(rows), 'expert')}, counted from 1, most chosen first. Choices: of the dense model's router on "
        "calibration text. The file has all layers."
    )
    head = ["Expert", "Kept", "Share of the choices", "Relative to an even share"]
    return Table(
        f"Experts of layer {index + 1}", caption, head, rows, data=data, stem=stem
    )
