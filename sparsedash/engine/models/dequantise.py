"""Unpacks a .gguf file into a folder of safetensors in the data folder, once."""

import shutil
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsedash.engine.models.content_hash import file_hash
from sparsedash.schema.errors import ModelError
from sparsedash.storage.store import Store


def dequantised(file: Path, store: Store) -> Path:
    """The folder that holds this file's model in FP32 with its tokenizer; made on the first call, found on later ones.

    It appears under its final name only when it is whole. Raises ModelError when the file cannot be read.
    """
    models = store.folder / "models"
    models.mkdir(mode=0o700, exist_ok=True)
    folder = models / f"{file.stem}-{file_hash(file, store)[:16]}"
    if folder.is_dir():
        return folder
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=models))
    try:
        _write(file, unfinished)
        unfinished.rename(folder)
    except OSError:
        # Another process may have been first; then its folder serves.
        if not folder.is_dir():
            raise
    except (ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"{file.name} could not be read as a GGUF model: {error}",
            "The architecture must be one that transformers can read from GGUF.",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _write(file: Path, folder: Path) -> None:
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    # The conversion's own bar would tear the shell's.
    with redirect_stderr(StringIO()):
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # A model read from GGUF refuses to be saved while it remembers that it was quantised.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
