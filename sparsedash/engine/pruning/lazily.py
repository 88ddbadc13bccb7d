"""Parts of a whole, such as what the blocks of a model become, that are made when they are asked for."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

T = TypeVar("T")


class Lazily(Sequence[T]):
    """So many parts, each made once, when it is first asked for. make: by its number; what raises is asked again."""

    def __init__(self, n_parts: int, make: Callable[[int], T]) -> None:
        self._n_parts, self._make = n_parts, make
        self._made: dict[int, T] = {}

    def __len__(self) -> int:
        return self._n_parts

    def __iter__(self) -> Iterator[T]:
        """Every part; Sequence's own would take an IndexError from `make` for the end."""
        return (self[index] for index in range(self._n_parts))

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        """The part, made now where it is not there yet."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        number = range(self._n_parts)[index]
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def replace(self, index: int, part: T) -> None:
        """From now on this is the part."""
        self._made[range(self._n_parts)[index]] = part
