"""Work on one model in several threads, of which each multiplies by itself.

Torch shares every product out among its threads, and all of them wait for the slowest: where another program has taken
a core, they come to a third of their speed. Threads that each do a piece of their own wait for none.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from threading import Event
from typing import TypeVar

import torch

from sparsedash.engine.models.loading import LoadedModel
from sparsedash.engine.models.products import same_products, torch_threads

T = TypeVar("T")

Tell = Callable[[int], None]
"""Says how far a piece is. Raises where nobody waits for it any more."""


def n_streams(loaded: LoadedModel, most: int) -> int:
    """How many pieces of work on this model may be done at the same time: one for each core at best."""
    # Weights in files are there a block at a time, for one walk; a device has an order of its own.
    in_order = loaded.residency.streamed or loaded.model.device.type != "cpu" or _positions_change(loaded)
    return 1 if in_order else max(1, min(most, torch.get_num_threads()))


@torch.inference_mode()
def side_by_side(pieces: Sequence[Callable[[Tell], T]], on_told: Callable[[Sequence[int]], None]) -> list[T]:
    """What the pieces give, without gradients, each in a thread; torch's own threads are shared out among them.

    on_told: called in this thread with how far every piece is. What it raises, or a piece, is raised here, and breaks
    the others off.
    """
    if len(pieces) == 1:
        return [pieces[0](lambda far: on_told([far]))]
    n_threads, nobody_waits = torch.get_num_threads(), Event()
    said: SimpleQueue[tuple[int, int] | Future[T]] = SimpleQueue()

    def tell(number: int, far: int) -> None:
        if nobody_waits.is_set():
            raise InterruptedError
        said.put((number, far))

    def work(number: int) -> T:
        # Torch keeps each of these for every thread by itself; the first is not set back here, where others go on.
        torch.set_num_threads(max(1, n_threads // len(pieces)))
        with torch.inference_mode(), same_products():
            return pieces[number](partial(tell, number))

    with torch_threads(), ThreadPoolExecutor(len(pieces)) as pool:
        try:
            own = [pool.submit(copy_context().run, work, number) for number in range(len(pieces))]
            for future in own:
                future.add_done_callback(said.put)
            return _heard(own, said, on_told)
        finally:
            nobody_waits.set()


def _heard(
    own: Sequence[Future[T]], said: SimpleQueue[tuple[int, int] | Future[T]], on_told: Callable[[Sequence[int]], None]
) -> list[T]:
    """The results of all, once they are there; raises as soon as one has failed."""
    far, n_left = [0] * len(own), len(own)
    while n_left:
        match said.get():
            case Future() as done:
                done.result()
                n_left -= 1
            case number, latest:
                far[number] = latest
                on_told(far)
    return [future.result() for future in own]


def _positions_change(loaded: LoadedModel) -> bool:
    """Whether the model works its position embeddings out anew by the length that it reads, and keeps them."""
    # One word for the whole model, or a table of them by kind of layer.
    kinds = [str(getattr(module, "rope_type", "")) for module in loaded.model.modules()]
    return any(changing in kind for kind in kinds for changing in ("dynamic", "longrope"))
