"""Quantises a GGUF file by llama.cpp: a program of its own, with nothing of SparseDash.

    python -I quantiser.py FULL NEW TYPE THREADS

TYPE: the number of llama.cpp's file type.
"""

import os
import sys


def quantise(
    full: str,
    new: str,
    file_type: int,
    n_threads: int,
) -> int:
    """Write the new file from the full one; llama.cpp's code of what went wrong, or 0."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    ffi, lib = get_ffi(), get_lib()
    asked = ffi.new("llama_model_quantize_params *", lib.llama_model_quantize_default_params())
    asked.ftype, asked.nthread = file_type, n_threads
    return int(lib.llama_model_quantize(os.fsencode(full), os.fsencode(new), asked))


if __name__ == "__main__":
    sys.exit(quantise(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
