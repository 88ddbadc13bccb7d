"""Every family in the forms that apply, loaded by stock transformers in a fresh process: the same logits."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from sparsedash.catalog.families import FAMILIES
from sparsedash.engine.export import reloaded
from sparsedash.engine.export.export_files import config_changes, exported_tensors, write_checkpoint
from sparsedash.engine.models.loading import Source, load_model
from sparsedash.engine.pruning.layer import LazySequence
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight
from sparsedash.engine.run.sparse_models import PrunedChannels
from tests.engine.tiny import save_tiny

PROGRAM = (
    "import json, runpy, sys\n"
    "main = runpy.run_path(sys.argv[1])['main']\n"
    "for each in json.loads(open(sys.argv[2]).read()): main(*each)\n"
)
NO_FIELD = {name for name, family in FAMILIES.items() if not family.width}
FORMS = {
    # Widths, type of the run, which is proven in float32, and width in the files.
    "uniform": ((64, 64, 64), "float32", 64),
    "padded": ((32, 64, 48), "bfloat16", 64),
    "masked": ((64, 96, 32), "float32", None),
}
CASES = [
    *((family, form) for family in sorted(FAMILIES) for form in ("padded", "masked")),
    # The others are padded without padding.
    *((family, "uniform") for family in ("gpt2", "llama", "phi3")),
]


def sparse_model(folder, widths, dtype):
    """The tiny model of this folder with random kept channels and other out-projections."""
    loaded = load_model(Source(reference=str(folder), folder=folder, identity="tiny"), dtype)
    torch.manual_seed(1)
    narrowed = []
    for mlp, width in zip(loaded.mlps, widths, strict=True):
        kept = torch.randperm(mlp.width)[:width].sort().values
        bias = None if mlp.out.bias is None else torch.randn(len(mlp.out.bias))
        narrowed.append(PrunedMlp(kept, out_weight(mlp)[:, kept] + 0.1 * torch.randn(1), bias))
    narrow = LazySequence(len(narrowed), narrowed.__getitem__)
    return PrunedChannels(loaded=loaded, narrowed=narrow, errors=[], sensitivities=list)


@pytest.fixture(scope="module")
def differences(tmp_path_factory):
    """By family and form, the largest difference between the logits in memory and those of a fresh process."""
    place = tmp_path_factory.mktemp("families")
    torch.manual_seed(2)
    draws = [torch.randint(1, 300, (9,)).tolist() for _ in range(3)]
    questions = [{"ids": ids, "n_target": 2, "text": "", "special": False} for ids in draws]
    (place / "questions.json").write_text(json.dumps({"questions": questions, "n_logits": 3, "tokenizer": False}))
    for family in sorted(FAMILIES):
        save_tiny(place / family, family)
    expected, calls = {}, []
    for family, form in CASES:
        widths, dtype, width = FORMS[form]
        made = sparse_model(place / family, widths, dtype)
        if width and family in NO_FIELD:
            width = made.loaded.mlps[0].width
        source, target = Source(reference=family, folder=place / family, identity="tiny"), place / f"{family}-{form}"
        target.mkdir()
        tensors = exported_tensors(made, width, dtype)
        changes = config_changes(source, FAMILIES[family].width, width, dtype)
        write_checkpoint(target, source, tensors, 1, changes, made.loaded.residency.drop)
        with made.applied():
            expected[family, form] = reloaded.answer_questions(made.loaded.model, questions, 3)
        calls.append((str(target), str(place / "questions.json"), f"{target}.json"))
    (place / "calls.json").write_text(json.dumps(calls))
    command = [sys.executable, "-I", "-c", PROGRAM, reloaded.__file__, str(place / "calls.json")]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for (family, form), (right, logits) in expected.items():
        told = json.loads((place / f"{family}-{form}.json").read_text())
        assert (told["holes"], told["ours"], told["right"]) == ([], [], right), (family, form)
        again = load_file(place / f"{family}-{form}.json.safetensors")
        found[family, form] = max(float((again[str(i)] - rows).abs().max()) for i, rows in enumerate(logits))
    return found


@pytest.mark.parametrize(("family", "form"), CASES)
def test_a_fresh_process_computes_the_same_logits(family, form, differences):
    assert differences[family, form] <= 1e-4


def test_the_families_without_a_width_in_their_config_are_those_whose_code_computes_it():
    assert sorted(NO_FIELD) == ["bloom"]
