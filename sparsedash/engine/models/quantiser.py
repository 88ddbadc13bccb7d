"""Quantises a GGUF file by llama.cpp: a program of its own, with nothing of SparseDash.

    python -I quantiser.py FULL NEW TYPE THREADS

TYPE: the number of llama.cpp's file type.
"""

import os
import sys


def quantise_file(
    full: str,
    new: str,
    file_type: int,
    n_threads: int,
) -> int:
    """Write the new file from the full one. Returns llama.cpp's error code, or 0."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    lib = get_lib()
    defaults = lib.llama_model_quantize_default_params()
    parameters = get_ffi().new("llama_model_quantize_params *", defaults)
    parameters.ftype = file_type
    parameters.nthread = n_threads
    return int(
        lib.llama_model_quantize(os.fsencode(full), os.fsencode(new), parameters)
    )


if __name__ == "__main__":
    sys.exit(
        quantise_file(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    )
