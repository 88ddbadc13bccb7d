"""The store's notes: the names in the data folders that there are, and one place that makes them."""

import ast
from pathlib import Path

import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.store_keys import NoteName

ROOT = Path(__file__).parents[2]
HOME = ROOT / "sparsedash" / "schema" / "notes.py"
OTHERS = sorted({*ROOT.glob("*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("sparsedash/**/*.py")} - {HOME})

NAMES = {
    "model_identity": (("gpt2", "f"), "identity/gpt2|f"),
    "text_identity": (("file:a.txt", "f"), "corpus/file:a.txt|f"),
    "file_hash": (("/a/b.txt", 12, 345), "hash//a/b.txt|12|345"),
    "source_type": (("0123",), "source type/0123"),
    "model_type": (("gpt2@0123",), "family/gpt2@0123"),
    "finite": (("f", "float32"), "finite/f/float32"),
    "tokenizer_tried": (("f",), "tokenizer/f"),
    "unpacked_files": (("tiny-0123",), "unpacked/tiny-0123"),
    "forecast": (("k",), "forecast/k"),
    "machine_speed": (("box", 2), "speed/box/2"),
    "model_shape": (("f",), "shape/f"),
    "peak_memory": (("gpt2", "float32"), "memory/gpt2/float32"),
    "calibrated": (("k",), "calibrated/k"),
    "calibration_warning": (("k",), "calibration warning/k"),
    "leaked_passages": (("k", "p"), "leaked/k|p"),
    "inputs_gathered": (("k",), "inputs/k"),
    "gradients_gathered": (("k",), "gradients/k"),
    "losses": (("d", "s"), "losses/d|s"),
    "artefact_room": ((), "artefact room"),
    "health": ((), "health"),
    "part_calibrations": (("k",), "part calibrations/k"),
    "parts_done": (("k",), "parts done/k"),
    "cluster_name": ((), "cluster name"),
}


@pytest.mark.parametrize("function", NAMES)
def test_a_note_keeps_the_name_that_it_has_in_earlier_data_folders(function):
    given, name = NAMES[function]
    assert getattr(store_keys, function)(*given) == name


def test_every_note_is_spelled_out_above_and_no_two_share_a_name():
    public = {name for name, value in vars(store_keys).items() if callable(value) and not name.startswith("_")}
    # The last of these gives several of the others.
    assert public - {"NewType", "NoteName", "of_calibrations"} == set(NAMES)
    assert len({name for _, name in NAMES.values()}) == len(NAMES)


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_file_makes_the_name_of_a_note(path):
    """mypy lets no plain text through to the store; what is left is to call a text a name, here or by a cast."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            words = [ast.unparse(node.func), *map(ast.unparse, node.args[:1])]
            assert not any(word.endswith("NoteName") for word in words), f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            begins = tuple(name.partition("/")[0] + "/" for _, name in NAMES.values() if "/" in name)
            assert not node.value.startswith(begins), f"{path.name}:{node.lineno}"


def test_the_store_takes_no_other_names():
    """What mypy holds, as long as these three say so."""
    tree = ast.parse((ROOT / "sparsedash" / "storage" / "store.py").read_text())
    verbs = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for verb in ("remember", "recall", "forget"):
        assert ast.unparse(verbs[verb].args.args[1].annotation or ast.Constant(None)) == NoteName.__name__
