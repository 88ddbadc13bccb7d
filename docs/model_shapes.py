"""Writes sparsedash/catalog/shapes from the configs beside it.

Run by `make docs`; tests/engine/models/test_real_shapes.py holds that the files are what this writes.
"""

import json

from transformers import AutoConfig

from sparsedash.catalog.model_sizes import CONFIGS, SHAPES
from sparsedash.engine.models.model_inspection import inspect_model
from sparsedash.schema.model_shape import ModelShape


def shape_of_config(name: str) -> ModelShape:
    """The shape of a config that ships with the program."""
    plain = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    return inspect_model(AutoConfig.for_model(**plain), name)


def main() -> None:
    """Write a shape for each config."""
    SHAPES.mkdir(exist_ok=True)
    for file in sorted(CONFIGS.glob("*.json")):
        plain = shape_of_config(file.stem).plain()
        (SHAPES / file.name).write_text(f"{plain}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
