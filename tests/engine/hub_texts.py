"""Small text sets in the file layouts that the hub has them in."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import zstandard

from tests.engine.hub_stand_in import Hub, Repository


def write_parquet(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


def write_card(folder: Path, config: str, splits: dict[str, str]) -> None:
    """A dataset card that says which files belong to which split, as the hub's do."""
    lines = [
        "---",
        "license: other",
        "configs:",
        f"- config_name: {config}",
        "  data_files:",
    ]
    for split, pattern in splits.items():
        lines += [f"  - split: {split}", f"    path: {pattern}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def json_lines(texts: Iterable[str]) -> bytes:
    return "".join(
        json.dumps({"text": text, "meta": {}}) + "\n" for text in texts
    ).encode()


def serve_parquet(
    hub: Hub, folder: Path, path: str, config: str, splits: dict[str, list[str]]
) -> Repository:
    """A text set of one parquet file a split."""
    for split, texts in splits.items():
        write_parquet(folder / config / f"{split}-00000-of-00001.parquet", texts)
    write_card(folder, config, {split: f"{config}/{split}-*" for split in splits})
    return hub.add("datasets", path, folder)


def serve_pile(hub: Hub, folder: Path, path: str, parts: list[list[str]]) -> Repository:
    """The Pile's layout: compressed JSON lines, of which those of training lie in a folder; the
    card says nothing.
    """
    (folder / "train").mkdir(parents=True)
    for number, texts in enumerate(parts):
        packed = zstandard.compress(json_lines(texts))
        (folder / "train" / f"{number:02}.jsonl.zst").write_bytes(packed)
    for split in ("val", "test"):
        (folder / f"{split}.jsonl.zst").write_bytes(
            zstandard.compress(json_lines(["other"]))
        )
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    return hub.add("datasets", path, folder)
