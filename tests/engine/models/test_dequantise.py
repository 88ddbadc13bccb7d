"""Models from .gguf files: unpacked once, again after a change, without code beside the file."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import gguf
import pytest
import torch
from filelock import FileLock

from sparsedash.catalog.gguf_reader import quantised_type
from sparsedash.engine.models import model_conversion
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.models.model_conversion import unpack_gguf
from sparsedash.schema.errors import ModelError
from sparsedash.schema.progress import ignore_steps
from sparsedash.storage.model_folders import UNFINISHED_EXPORT, unpacked_models
from sparsedash.storage.verification import verify
from tests.engine.tiny import load_folder
from tests.engine.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def unpacked(whole, store):
    return unpack_gguf(whole, store)


def damaged_files(store):
    return [damage.name for damage in verify(store, ignore_steps).damaged]


def logits(whole, store):
    loaded = load_folder(whole, store)
    return loaded.model(torch.tensor([[1, 2, 3]])).logits


def test_it_is_unpacked_once_and_then_found_under_its_identity(whole, unpacked, store):
    inode = unpacked.stat().st_ino
    reader = gguf.GGUFReader
    assert unpack_gguf(whole, store) == unpacked
    assert gguf.GGUFReader == reader
    assert unpacked.stat().st_ino == inode
    (model,) = unpacked_models(store)
    assert model.name == unpacked.name
    assert model.identity == locate_model(str(whole), store).identity
    assert damaged_files(store) == []


def harm_file(folder, harm):
    file = folder / "model.safetensors"
    match harm:
        case "cut":
            file.write_bytes(file.read_bytes()[:-8])
        case "removed":
            file.unlink()
        case "added":
            (folder / "adapter.safetensors").write_bytes(b"")


@pytest.mark.parametrize("harm", ["cut", "removed", "added"])
def test_a_changed_folder_is_converted_again_and_the_numbers_are_the_same(
    whole, unpacked, store, harm, caplog
):
    before = logits(whole, store)
    identity = locate_model(str(whole), store).identity
    harm_file(unpacked, harm)
    assert bool(damaged_files(store)) is (harm != "added")
    assert torch.equal(logits(whole, store), before)
    assert locate_model(str(whole), store).identity == identity
    assert not (unpacked / "adapter.safetensors").exists()
    assert damaged_files(store) == []
    assert "converted again" in caplog.text


def test_what_killed_processes_left_is_removed(whole, store):
    models = store.folder / "models"
    models.mkdir()
    folder = unpack_gguf(whole, store)
    locked, abandoned, recent = (
        models / f"{UNFINISHED_EXPORT}{name}"
        for name in ("locked", "abandoned", "recent")
    )
    for unfinished in (locked, abandoned, recent):
        unfinished.mkdir()
    (abandoned / "lock").touch()
    (folder / "model.safetensors").unlink()
    with FileLock(locked / "lock"):
        os.utime(locked, (0, 0))  # as if the clock had been put forward since
        unpack_gguf(whole, store)
        # A recent folder may not be locked yet.
        assert (locked.exists(), abandoned.exists(), recent.exists()) == (
            True,
            False,
            True,
        )
    assert [model.name for model in unpacked_models(store)] == [folder.name]


class Killed(BaseException):
    """As a signal: nothing handles it."""


@pytest.mark.parametrize("step", ["write", "rename"])
def test_a_kill_while_a_changed_folder_is_replaced_leaves_the_former_one_or_none(
    whole, unpacked, store, monkeypatch, step
):
    before = logits(whole, store)
    rename = Path.rename
    harm_file(unpacked, "cut")
    former = {file.name for file in unpacked.iterdir()}

    def killed(*_):
        raise Killed

    def killed_last(path, target):
        if target == unpacked:
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step == "write":
            patch.setattr(model_conversion, "_write_converted", killed)
        else:
            patch.setattr(Path, "rename", killed_last)
        unpack_gguf(whole, store)
    remaining = {file.name for file in unpacked.glob("*")}
    assert remaining == (former if step == "write" else set())
    assert torch.equal(logits(whole, store), before)
    assert [path for path in unpacked.parent.glob("*/") if path != unpacked] == []


def test_two_at_once_unpack_it_once(whole, store):
    with ThreadPoolExecutor(2) as pool:
        inodes = list(
            pool.map(lambda _: unpack_gguf(whole, store).stat().st_ino, range(2))
        )
    assert len(set(inodes)) == 1
    assert len(list((store.folder / "models").glob("*/"))) == 1


def at(data, name, n_bytes, value):
    """The file with another number so many bytes after this name."""
    place = data.index(name.encode()) + len(name) + n_bytes
    return data[:place] + value.to_bytes(8, "little") + data[place + 8 :]


def require_refused(data, store, folder):
    file = folder / "harmed.gguf"
    file.write_bytes(data)
    with pytest.raises(
        ModelError, match=r"harmed\.gguf could not be read as a GGUF model: ."
    ):
        locate_model(str(file), store)


@pytest.mark.parametrize("share", [0, 0.0001, 0.2, 0.999])
def test_a_file_that_is_cut_off_is_refused_at_once(share, whole, store, tmp_path):
    data = whole.read_bytes()
    require_refused(data[: int(len(data) * share)], store, tmp_path)


@pytest.mark.parametrize(
    ("name", "n_bytes", "value"),
    [
        # After a tensor's name: number of dimensions, two of them, type, offset.
        ("blk.1.ffn_up.weight", 24, 32),
        ("blk.1.ffn_up.weight", 24, 10**9),
        # An endless array, and an endless word.
        ("tokenizer.ggml.tokens", 8, 2**62),
        ("tokenizer.ggml.tokens", 16, 2**63),
    ],
)
def test_a_file_with_an_impossible_number_is_refused_at_once(
    name, n_bytes, value, whole, store, tmp_path
):
    require_refused(at(whole.read_bytes(), name, n_bytes, value), store, tmp_path)


def test_a_missing_tensor_is_refused_by_name_and_a_long_name_is_none(store, tmp_path):
    file = write_tiny_gguf(
        tmp_path / f"{'ü' * 120}.gguf", without="blk.1.ffn_down.weight"
    )
    with pytest.raises(
        ModelError, match=r"gguf lacks model\.layers\.1\.mlp\.down_proj\.weight"
    ):
        locate_model(str(file), store)
    assert list((store.folder / "models").glob("*/")) == []


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        (
            "gpt2",
            {"gpt2.attention.key_length": [16, 16]},
            "would be another model without",
        ),
        ("llama", {"general.type": "ÿ"}, "it holds no model: general.type is '\ufffd"),
        (
            "llama",
            {"tokenizer.ggml.tokens": ["x" * 1001]},
            "one of its tokens has 1,001 bytes; possible: 1,000",
        ),
    ],
)
def test_an_odd_value_is_named(family, keys, message, store, tmp_path):
    file = write_tiny_gguf(
        tmp_path / "tiny.gguf",
        family=family,
        keys=keys,
    )
    file.write_bytes(file.read_bytes().replace("ÿ".encode(), b"\xff\xff"))
    with pytest.raises(ModelError, match=message):
        locate_model(str(file), store)


def test_code_that_lies_beside_the_file_is_neither_asked_for_nor_run(
    store, tmp_path, monkeypatch
):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    proof = tmp_path / "ran"
    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "evil.py").write_text(
        f"open({str(proof)!r}, 'w')\nclass Tokenizer: pass\n"
    )
    classes = {"AutoTokenizer": ["evil.Tokenizer"] * 2, "AutoConfig": "evil.Tokenizer"}
    for name in ("tokenizer_config.json", "config.json"):
        (tmp_path / name).write_text(json.dumps({"auto_map": classes}))
    assert load_folder(file, store).tokenizer("the lamp").input_ids
    assert not proof.exists()


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_regular_file_is_refused_and_not_read(store, tmp_path, kind):
    path = tmp_path / "odd.gguf"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
    with pytest.raises(ModelError, match="no regular file"):
        locate_model(str(path), store)


@pytest.mark.parametrize(
    ("held", "stated", "called"),
    [
        ({"Q4_1": 100, "Q8_0": 30, "F32": 1}, 3, "Q4_1"),
        (
            {
                "Q8_0": 170,
                "Q5_0": 60,
                "Q4_K": 20,
                "F32": 1,
            },
            15,
            "Q4_K_M",
        ),
        ({"Q4_0": 10, "F16": 90}, 1, "Q4_0"),
        ({"Q5_0": 10}, "Q4_0", "Q5_0"),
        ({"F16": 10, "BF16": 5, "F32": 1}, 3, ""),
    ],
)
def test_a_quantised_file_is_called_by_its_own_name_where_its_tensors_agree(
    held, stated, called
):
    types = gguf.GGMLQuantizationType
    tensors = [
        SimpleNamespace(
            tensor_type=types[name],
            n_elements=count,
        )
        for name, count in held.items()
    ]
    fields = {"general.file_type": SimpleNamespace(contents=lambda: stated)}
    assert (
        quantised_type(
            SimpleNamespace(
                tensors=tensors,
                fields=fields,
                values={},
            )
        )
        == called
    )


def test_the_type_of_a_file_is_read_once(whole, store, tmp_path, monkeypatch):
    files = (write_tiny_gguf(tmp_path / "q.gguf", quantised="Q4_0"), whole)

    def source_types():
        return [locate_model(str(file), store).source_type for file in files]

    assert source_types() == ["Q4_0", ""]
    monkeypatch.setattr("sparsedash.engine.models.model_conversion.opened_gguf", None)
    assert source_types() == ["Q4_0", ""]
