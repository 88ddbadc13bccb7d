"""Reads the header of a .gguf file within the file's bounds, and quickly.

The library makes several arrays for every word of a vocabulary, which was most of unpacking the
built-in model.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from sparsedash.schema.errors import ModelError, first_line

_LENGTH_BYTES = 8
_ARRAY_HEAD_BYTES = 12
_UNQUANTISED = {"F64", "F32", "F16", "BF16", "I8", "I16", "I32", "I64"}


class GgufReader(gguf.GGUFReader):  # type: ignore[misc]
    """The library's reader, but where it would read past the end of the file as if nothing stood
    there, it refuses.

    Arrays of words or numbers are read as a whole; their `parts` are bytes or arrays of one number,
    as `data` numbers them.
    """

    data: Any
    byte_order: str
    alignment: int
    gguf_scalar_to_np: dict[int, Any]

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """Every key with its value; strings in arrays are bytes, as tokens split characters."""
        return {
            name: _value(field)
            for name, field in self.fields.items()
            if not name.startswith("GGUF.")
        }

    def _get(
        self, offset: int, dtype: Any, count: int = 1, override_order: Any = None
    ) -> Any:
        if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("it is cut off")
        if isinstance(self.data, np.memmap):
            # Slicing a memmap makes an object of that class each time, which took nine tenths of
            # the reading.
            self.data = self.data.view(np.ndarray)
        return super()._get(offset, dtype, count, override_order)

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[Any], list[int], list[Any]]:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)  # type: ignore[no-any-return]
        kind = self._get(orig_offs, np.uint32)
        count = self._get(orig_offs + 4, np.uint64)
        item = int(kind[0])
        n_items = int(count[0])
        start = orig_offs + _ARRAY_HEAD_BYTES
        if item == gguf.GGUFValueType.STRING:
            items, end = self._strings(start, n_items)
        elif item in self.gguf_scalar_to_np:
            values = self._get(start, self.gguf_scalar_to_np[item], n_items)
            items = list(values.reshape(-1, 1))
            end = start + values.nbytes
        else:
            return super()._get_field_parts(orig_offs, raw_type)  # type: ignore[no-any-return]
        types = [
            gguf.GGUFValueType.ARRAY,
            *([gguf.GGUFValueType(item)] if n_items else []),
        ]
        return (
            end - orig_offs,
            [kind, count, *items],
            list(range(2, 2 + n_items)),
            types,
        )

    def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
        """As the library does, but each tensor must begin where the one before it ends."""
        super()._build_tensors(start_offs, fields)
        expected = start_offs
        alignment = int(self.alignment)
        for tensor in self.tensors:
            if tensor.data_offset != expected:
                raise ValueError(
                    f"tensor {tensor.name} lies at {tensor.data_offset}, not at {expected}"
                )
            expected += -(-int(tensor.n_bytes) // alignment) * alignment

    def _strings(self, offset: int, count: int) -> tuple[list[bytes], int]:
        """The `count` strings from this offset on, and the offset after them."""
        content = memoryview(self.data)
        strings = []
        if offset + count * _LENGTH_BYTES > len(content):
            raise ValueError("it is cut off")
        order = sys.byteorder
        if self.byte_order != "I":
            order = "big" if order == "little" else "little"
        for _ in range(count):
            begin = offset + _LENGTH_BYTES
            offset = begin + int.from_bytes(content[offset:begin], order)
            if offset > len(content) or begin > len(content):
                raise ValueError("it is cut off")
            strings.append(bytes(content[begin:offset]))
        return strings, offset


@contextmanager
def quick_gguf() -> Iterator[None]:
    """Inside, transformers reads .gguf files by `GgufReader`."""
    before = gguf.GGUFReader
    # It imports it from the package whenever it reads, and has no other way to be given it.
    gguf.GGUFReader = GgufReader
    try:
        yield
    finally:
        gguf.GGUFReader = before


def _value(field: Any) -> Any:
    kind, *item = field.types
    if kind == gguf.GGUFValueType.STRING:
        return bytes(field.parts[field.data[0]]).decode(errors="replace")
    if kind != gguf.GGUFValueType.ARRAY:
        return field.contents()
    if item == [gguf.GGUFValueType.STRING]:
        return [bytes(field.parts[place]) for place in field.data]
    return [field.parts[place].tolist()[0] for place in field.data]


def opened_gguf(file: Path) -> GgufReader:
    """The file's keys and tensors.

    Raises ModelError unless all of them can be read and lie within it.
    """
    try:
        return GgufReader(file)
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        reason = first_line(error).strip("'\"")
        raise ModelError(
            f"{file.name} could not be read as a GGUF model: {reason}.",
            "Fetch it again; the file must be whole.",
        ) from error


SOURCE_TYPE = "sparsedash.source_type"
"""Key of a file that was exported here: the type of the quantised file that its dense model comes
from.
"""

_NAMED_TYPES = (*gguf.LlamaFileType, *gguf.GGMLQuantizationType)
_KNOWN_TYPES = {named.name.removeprefix("MOSTLY_") for named in _NAMED_TYPES}


def quantised_type(reader: GgufReader) -> str:
    """The type of a quantised file, as Q4_K_M or Q4_1; of a full one that of its source; empty
    where none is known.

    The file's own name for it where a tensor is of that type, else the type that most of its
    quantised weights have.
    """
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[tensor.tensor_type.name] += int(tensor.n_elements)
    quantised = [name for name, _ in weights.most_common() if name not in _UNQUANTISED]
    if quantised and (field := reader.fields.get("general.file_type")):
        with suppress(ValueError, TypeError):
            stated = str(gguf.LlamaFileType(field.contents()).name).removeprefix(
                "MOSTLY_"
            )
            if stated.startswith(tuple(quantised)):
                return stated
    source = str(reader.values.get(SOURCE_TYPE, ""))
    return quantised[0] if quantised else source * (source in _KNOWN_TYPES)
