"""Weights that stay in their files: mapping, offloading, changed blocks, and other types."""

import errno
import os
import shutil
import sys
from functools import partial
from itertools import chain
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsedash.engine.models import residency, streaming
from sparsedash.engine.models.decoder_blocks import forward_replaced
from sparsedash.engine.models.loading import load_model
from sparsedash.engine.models.locating import locate_model
from sparsedash.engine.models.streaming import stream_model
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight, pruned
from sparsedash.schema.errors import ModelError
from sparsedash.storage.store import Store
from tests.engine.tiny import CONFIGS, IDS, save_tiny

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    opened = Store(tmp_path_factory.mktemp("data"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def source(model_folder, kept):
    return locate_model(str(model_folder), kept)


@pytest.fixture
def streamed(source, kept):
    return stream_model(source, "float32", kept)


def n_offloaded(streamed):
    return sum(not storage.expired() for storage, *_ in streamed.residency._offloaded)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_a_streamed_model_of_every_family_gives_the_same_logits_to_the_bit(
    model_type, kept, tmp_path
):
    source = locate_model(str(save_tiny(tmp_path / "model", model_type)), kept)
    resident = load_model(source, "float32")
    streamed = stream_model(source, "float32", kept)
    assert streamed.residency.streamed
    assert not resident.residency.streamed
    assert torch.equal(streamed.model(IDS).logits, resident.model(IDS).logits)


# Where weights and offloaded tensors are.


@linux_only
def test_every_weight_is_a_view_of_its_own_file_and_none_is_copied(
    source, kept, monkeypatch
):
    monkeypatch.setattr(residency.Streamed, "offload", lambda *_: pytest.fail("copied"))
    stream_model(source, "float32", kept)


def test_without_a_list_of_mappings_weights_are_copied_to_files(
    source, kept, loaded, monkeypatch
):
    monkeypatch.setattr(residency, "mapped_files", list)
    streamed = stream_model(source, "float32", kept)
    assert n_offloaded(streamed) == len(list(streamed.model.parameters()))
    assert torch.equal(streamed.model(IDS).logits, loaded.model(IDS).logits)


@linux_only
def test_pages_are_dropped_after_every_block_and_read_again(kept, tmp_path):
    # Large enough that readahead does not matter.
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 2048,
        "num_hidden_layers": 4,
    }
    folder = save_tiny(tmp_path / "model", **sizes)
    streamed = stream_model(locate_model(str(folder), kept), "float32", kept)
    (file,) = folder.glob("*.safetensors")
    weight = streamed.mlps[0].out.weight

    def resident_bytes():
        maps = psutil.Process().memory_maps()
        return sum(mapped.rss for mapped in maps if mapped.path == str(file.resolve()))

    before = weight.sum()
    assert resident_bytes() >= weight.nbytes
    streamed.residency.drop()
    # The file's head holds no weights.
    assert resident_bytes() < 2**16
    assert weight.sum() == before
    streamed.model(IDS)
    # The last block's and the output head's.
    assert resident_bytes() < file.stat().st_size / 2


def test_an_offloaded_tensor_is_equal_in_an_unnamed_file_and_goes_with_its_last_view(
    streamed, kept
):
    tensor = torch.arange(5000.0).reshape(50, 100)
    mapped = streamed.residency.offload(tensor)
    streamed.residency.drop()
    assert torch.equal(mapped, tensor)
    assert list((kept.folder / streaming.SCRATCH).iterdir()) == []
    view = mapped[3:]
    del mapped
    streamed.residency.drop()
    assert torch.equal(view, tensor[3:])
    assert n_offloaded(streamed) == 1
    del view
    assert n_offloaded(streamed) == 0


@linux_only
def test_offloaded_tensors_keep_no_file_open(streamed):
    files = Path("/proc/self/fd")
    n_open = len(list(files.iterdir()))
    tensors = [streamed.residency.offload(torch.ones(5)) for _ in range(50)]
    assert len(list(files.iterdir())) == n_open
    assert n_offloaded(streamed) >= len(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_tensors_offloaded_together_are_equal_and_in_one_file(streamed, dtype):
    tensors = [torch.randn(2, 3, 5)[:, :2], torch.randn(7), torch.randn(1, 0, 2)]
    tensors = [tensor.to(dtype) for tensor in tensors]
    mapped = streamed.residency.offload_all(tensors)
    assert all(map(torch.equal, mapped, tensors))
    assert n_offloaded(streamed) == 1


def test_a_full_disk_is_an_error_in_words(streamed, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(residency, "_new_mapping", full)
    with pytest.raises(ModelError, match="could not be written: No space left"):
        streamed.residency.offload(torch.ones(5000))


# Blocks that are brought in and changed.


def test_a_block_is_changed_while_it_runs_and_dense_otherwise(streamed, loaded):
    narrowed = [
        PrunedMlp(torch.arange(24), out_weight(mlp)[:, :24].clone())
        for mlp in loaded.mlps
    ]
    with pruned(loaded.mlps, narrowed):
        expected = loaded.model(IDS).logits
    changes = []
    for mlp, narrow in zip(streamed.mlps, narrowed, strict=True):
        changes.append(partial(pruned, [mlp], [narrow]))
    dense = streamed.model(IDS).logits
    with pytest.raises(KeyError), streamed.residency.changed(changes):
        assert torch.equal(streamed.model(IDS).logits, expected)
        # The last block that ran is still changed.
        assert [mlp.width for mlp in streamed.mlps] == [96, 96, 24]
        raise KeyError
    assert [mlp.width for mlp in streamed.mlps] == [96, 96, 96]
    assert torch.equal(streamed.model(IDS).logits, dense)


def test_the_next_block_is_read_ahead_while_one_runs(streamed, monkeypatch):
    addresses = []
    advise = residency._advise

    def note(address, n_bytes, advice):
        if advice == residency._WILL_NEED:
            addresses.append(address)
        advise(address, n_bytes, advice)

    monkeypatch.setattr(residency, "_advise", note)
    streamed.model(IDS)
    later = chain.from_iterable(block.parameters() for block in streamed.blocks[1:])
    assert addresses == [parameter.data_ptr() for parameter in later]


def test_a_stub_of_a_block_brings_no_weights_in(streamed, monkeypatch):
    monkeypatch.setattr(
        streamed.residency, "_enter", lambda block: pytest.fail("brought in")
    )
    stubs = [lambda hidden, *args, **kwargs: hidden] * len(streamed.blocks)
    with forward_replaced(streamed.blocks, stubs):
        streamed.model(IDS)
    with pytest.raises(pytest.fail.Exception):
        streamed.model(IDS)


# Copies in another type, and what is refused.


@pytest.mark.parametrize(
    ("form", "dtype"),
    [("one file", "bfloat16"), ("shards", "bfloat16"), ("bin", "float32")],
)
def test_another_type_or_form_is_written_once_and_equals_the_loaded_model(
    form, dtype, model_folder, store, tmp_path, monkeypatch
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    if form == "bin":
        torch.save(
            load_file(folder / "model.safetensors"), folder / "pytorch_model.bin"
        )
        (folder / "model.safetensors").unlink()
    if form == "shards":
        monkeypatch.setattr(streaming, "_SHARD_BYTES", 20_000)
    source = locate_model(str(folder), store)
    resident = load_model(source, dtype)
    streamed = stream_model(source, dtype, store)
    assert streamed.identity == resident.identity
    shards = list((store.folder / "models").glob("*/model-*.safetensors"))
    assert (len(shards) > 1) is (form == "shards")
    assert torch.equal(streamed.model(IDS).logits, resident.model(IDS).logits)
    monkeypatch.setattr(streaming, "_recast", lambda *_: pytest.fail("written again"))
    stream_model(source, dtype, store)


def test_weights_are_checked_for_nan_once_until_a_file_changes(
    model_folder, store, tmp_path, monkeypatch
):
    folder = shutil.copytree(model_folder, tmp_path / "copy")
    calls = []
    check = streaming.refuse_no_numbers
    monkeypatch.setattr(
        streaming, "refuse_no_numbers", lambda *a: calls.append(a) or check(*a)
    )
    source = locate_model(str(folder), store)
    for _ in range(2):
        stream_model(source, "float32", store)
    assert len(calls) == 1
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(
        weights,
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"NaN or infinite values in .*down_proj"):
        stream_model(source, "float32", store)
