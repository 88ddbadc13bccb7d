"""Models that read the same batches: side by side where weights are streamed, else one by one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

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
    """Changes to apply while each of these models reads; inside, one in memory is applied already."""
    if loaded.residency.streamed:
        yield [models[number] for number in numbers]
        return
    (number,) = numbers
    with models[number]():
        yield [nullcontext]
