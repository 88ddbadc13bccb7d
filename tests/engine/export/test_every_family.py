"""Every family in the forms that apply, loaded by stock transformers: the same logits."""

import json
from itertools import product

import pytest
import torch

from sparsedash.engine.export.export_files import write_folder
from sparsedash.engine.export.reloaded import answer_questions, load_and_answer
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.sparse_models import PrunedChannels
from sparsedash.engine.pruning.layer import LazySequence
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight
from tests.engine.tiny import CONFIGS, save_tiny, source_of

NO_FIELD = {"bloom"}
FORMS = {
    # Widths, type of the run, which is proven in float32, and width in the files.
    "uniform": ((64, 64, 64), "float32", 64),
    "padded": ((32, 64, 48), "bfloat16", 64),
    "masked": ((64, 96, 32), "float32", None),
    # Without the second layer.
    "fewer": ((96, 0, 96), "float32", 96),
}
CASES = [
    *product(sorted(CONFIGS), ("padded", "fewer")),
    # A transposed projection, a gate, gate and up in one, and a width that the code computes.
    *product(("gpt2", "llama", "phi3", "bloom"), ("masked",)),
    *product(("gpt2", "llama", "phi3"), ("uniform",)),
]


def sparse_model(folder, widths, dtype):
    """The tiny model of this folder with random kept channels and other out-projections."""
    loaded = load_model(source_of(folder), dtype)
    torch.manual_seed(1)
    narrowed = []
    for mlp, width in zip(loaded.mlps, widths, strict=True):
        kept = torch.randperm(mlp.width)[:width].sort().values
        bias = None if mlp.out.bias is None else torch.randn(len(mlp.out.bias))
        narrowed.append(
            PrunedMlp(kept, out_weight(mlp)[:, kept] + 0.1 * torch.randn(1), bias)
        )
    narrow = LazySequence(len(narrowed), narrowed.__getitem__)
    gone = [index for index, width in enumerate(widths) if not width]
    return PrunedChannels(
        loaded=loaded,
        blocks=narrow,
        errors=[],
        block_losses=list,
        removed_layers=gone,
    )


@pytest.mark.parametrize(("family", "form"), CASES)
def test_stock_transformers_computes_the_same_logits(family, form, tmp_path):
    folder = tmp_path / "tiny"
    target = tmp_path / "out"
    (widths, dtype, width) = FORMS[form]
    sparse = sparse_model(save_tiny(folder, family), widths, dtype)
    if width and family in NO_FIELD:
        width = sparse.loaded.mlps[0].width
    target.mkdir()
    source = source_of(folder)
    shard_mb = 0 if form == "uniform" else 5_000
    write_folder(
        target,
        source,
        sparse,
        widths=width and [width] * len(widths),
        weights=dtype,
        shard_mb=shard_mb,
    )
    files = {file.name for file in target.glob("*.safetensors")}
    if form == "uniform":
        index = json.loads((target / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"].values()) == files and len(files) > 3
    else:
        assert files == {"model.safetensors"}
    ids = [torch.randint(1, 300, (9,)).tolist() for _ in range(3)]
    questions = [
        {
            "ids": token_ids,
            "n_target": 2,
            "text": "",
            "special": False,
            "tokens": [],
        }
        for token_ids in ids
    ]
    with sparse.applied():
        right, logits = answer_questions(sparse.loaded.model, questions)
    answers, loaded_logits = load_and_answer(str(target), {"questions": questions})
    assert (answers["holes"], answers["right"]) == ([], right)
    assert (
        max(
            float((loaded_logits[str(i)] - rows).abs().max())
            for i, rows in enumerate(logits)
        )
        <= 1e-4
    )
