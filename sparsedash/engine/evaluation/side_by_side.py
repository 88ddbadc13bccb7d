"""Models that read the same batches: side by side where weights are streamed, else one by one."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import accumulate

from sparsedash.engine.models.decoder_blocks import Applied
from sparsedash.engine.models.loading import LoadedModel


def model_groups(loaded: LoadedModel, models: Sequence[Applied]) -> list[list[int]]:
    """Numbers of the models that read together: all whose weights are streamed, else each alone."""
    numbers = list(range(len(models)))
    return [numbers] if loaded.residency.streamed else [[number] for number in numbers]


@contextmanager
def reading(
    loaded: LoadedModel, models: Sequence[Applied], numbers: Sequence[int]
) -> Iterator[list[Applied]]:
    """What to apply while each of these models reads; inside, one in memory is applied already."""
    if loaded.residency.streamed:
        yield [models[number] for number in numbers]
        return
    (number,) = numbers
    with models[number]():
        yield [nullcontext]


def n_fitting(sizes: Iterable[int], n_tokens: float) -> int:
    """Number of first batches that have at most n_tokens together, padding included; at least 1."""
    return max(1, sum(together <= n_tokens for together in accumulate(sizes)))
