"""The sizes of a dense model that say what a narrower one saves: plain counts, kept beside its identity."""

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Counts of one dense model.

    family: its model_type. hidden: width of the residual stream, d. widths: inner channels of each block, m.
    per_channel: weights that leave with one channel of any block. bias_per_channel: biases that leave with it.
    n_matmul: weights of Linear and Conv layers, the output head included even where it shares the embedding's.
    n_head: of that head. n_parameters: everything; what is shared counts once. attention: width of all heads of one
    block together. keys: width of its keys, which its values share.
    """

    family: str
    hidden: int
    widths: tuple[int, ...]
    per_channel: int
    bias_per_channel: int
    n_matmul: int
    n_head: int
    n_parameters: int
    attention: int
    keys: int

    def plain(self) -> str:
        """The counts as one JSON text."""
        return msgspec.json.encode(self).decode()


def shape_from_plain(text: str) -> ModelShape | None:
    """The counts that `plain` wrote; None for anything else."""
    try:
        return msgspec.json.decode(text, type=ModelShape)
    except (msgspec.MsgspecError, RecursionError):
        return None
