"""Weights that stay in their files: where they are, what is given back, what a changed block is,
and other types.
"""

import errno
import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsedash.catalog.families import FAMILIES
from sparsedash.engine.models import loading, residency
from sparsedash.engine.models.decoder_blocks import forward_replaced
from sparsedash.engine.models.loading import load_model, locate_model, stream_model
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight, pruned
from sparsedash.schema.errors import ModelError
from sparsedash.storage.store import Store
from tests.engine.tiny import IDS, save_tiny


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


@pytest.fixture(scope="module")
def cut(loaded):
    """MLPs of 24 channels, and the logits with them."""
    made = [PrunedMlp(torch.arange(24), out_weight(mlp)[:, :24].clone()) for mlp in loaded.mlps]
    with pruned(loaded.mlps, made):
        return made, loaded.model(IDS).logits


def changes_of(streamed, made):
    return [
        lambda m=mlp, n=narrow: pruned([m], [n])
        for mlp, narrow in zip(streamed.mlps, made, strict=True)
    ]


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_streamed_model_of_every_family_gives_the_same_logits_to_the_bit(
    model_type, kept, tmp_path
):
    source = locate_model(str(save_tiny(tmp_path / "model", model_type)), kept)
    resident, streamed = load_model(source, "float32"), stream_model(source, "float32", kept)
    assert streamed.residency.streamed and not resident.residency.streamed
    assert torch.equal(streamed.model(IDS).logits, resident.model(IDS).logits)


# Where weights and held numbers are.


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_every_weight_is_a_view_of_its_own_file_and_none_is_copied(source, kept, monkeypatch):
    monkeypatch.setattr(residency.Streamed, "offload", lambda *_: pytest.fail("copied"))
    stream_model(source, "float32", kept)


def test_where_no_system_tells_what_is_mapped_weights_are_copied_to_files(
    source, kept, loaded, monkeypatch
):
    monkeypatch.setattr(residency, "mapped_files", list)
    streamed = stream_model(source, "float32", kept)
    assert n_held(streamed) == len(list(streamed.model.parameters()))
    assert torch.equal(streamed.model(IDS).logits, loaded.model(IDS).logits)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is in memory")
def test_what_was_read_is_given_back_after_every_block_and_read_again(kept, tmp_path):
    # Large enough that what the system reads around a page does not matter.
    folder = save_tiny(
        tmp_path / "model", hidden_size=256, intermediate_size=2048, num_hidden_layers=4
    )
    streamed = stream_model(locate_model(str(folder), kept), "float32", kept)
    (file,), weight = folder.glob("*.safetensors"), streamed.mlps[0].out.weight

    def resident_bytes():
        return sum(
            mapped.rss
            for mapped in psutil.Process().memory_maps()
            if mapped.path == str(file.resolve())
        )

    before = weight.sum()
    assert resident_bytes() >= weight.nbytes
    streamed.residency.drop()
    # But for the file's head, which holds no weights.
    assert resident_bytes() < 2**16
    assert weight.sum() == before
    streamed.model(IDS)
    # Of all the file's pages no more than the last block's and the head's are there.
    assert resident_bytes() < file.stat().st_size / 2


def n_held(streamed):
    return sum(not known.expired() for known, *_ in streamed.residency._held)


@pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd")
def test_what_is_held_keeps_no_file_open(streamed):
    files = Path("/proc/self/fd")
    n_open = len(list(files.iterdir()))
    kept = [streamed.residency.offload(torch.ones(5)) for _ in range(50)]
    assert len(list(files.iterdir())) == n_open and n_held(streamed) >= len(kept)


def test_what_is_held_is_equal_leaves_no_file_behind_and_goes_with_its_last_view(streamed, kept):
    tensor = torch.arange(5000.0).reshape(50, 100)
    held = streamed.residency.offload(tensor)
    streamed.residency.drop()
    assert torch.equal(held, tensor)
    assert list((kept.folder / loading.SCRATCH).iterdir()) == []
    view = held[3:]
    del held
    streamed.residency.drop()
    assert torch.equal(view, tensor[3:]) and n_held(streamed) == 1
    del view
    assert n_held(streamed) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_what_is_held_together_is_equal_and_lies_in_one_file(streamed, dtype):
    tensors = [
        torch.randn(2, 3, 5)[:, :2].to(dtype),
        torch.randn(7).to(dtype),
        torch.randn(1, 0, 2).to(dtype),
    ]
    held = streamed.residency.offload_all(tensors)
    assert all(map(torch.equal, held, tensors))
    assert n_held(streamed) == 1


def test_a_full_disk_is_an_error_in_words(streamed, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(residency, "_new_mapping", full)
    with pytest.raises(ModelError, match="could not be written: No space left"):
        streamed.residency.offload(torch.ones(5000))


# Blocks that are brought in and changed.


def test_a_block_is_changed_while_it_runs_and_dense_outside_of_it(streamed, loaded, cut):
    (made, expected), dense = cut, streamed.model(IDS).logits
    widths = [mlp.width for mlp in loaded.mlps]
    with streamed.residency.changed(changes_of(streamed, made)):
        assert torch.equal(streamed.model(IDS).logits, expected)
        # The last block that ran is still changed; all others are as they were.
        assert [mlp.width for mlp in streamed.mlps[:-1]] == widths[:-1]
    assert [mlp.width for mlp in streamed.mlps] == widths
    assert torch.equal(streamed.model(IDS).logits, dense)
    with pytest.raises(KeyError), streamed.residency.changed(changes_of(streamed, made)):
        streamed.model(IDS)
        raise KeyError
    assert [mlp.width for mlp in streamed.mlps] == widths


def test_the_next_block_is_asked_for_while_one_runs(streamed, monkeypatch):
    asked, soon, advise = [], residency._NEEDED_SOON, residency._advise
    monkeypatch.setattr(
        residency, "_advise", lambda *of: asked.append(of[0]) if of[2] == soon else advise(*of)
    )
    streamed.model(IDS)
    assert asked == [own.data_ptr() for block in streamed.blocks[1:] for own in block.parameters()]


def test_what_stands_in_for_a_block_brings_no_weights_in(streamed, monkeypatch):
    monkeypatch.setattr(streamed.residency, "_enter", lambda block: pytest.fail("brought in"))
    with forward_replaced(
        streamed.blocks, [lambda hidden, *args, **kwargs: hidden] * len(streamed.blocks)
    ):
        streamed.model(IDS)
    with pytest.raises(pytest.fail.Exception):
        streamed.model(IDS)


# Copies in another type, and what is refused.


@pytest.mark.parametrize(
    ("form", "dtype"), [("one file", "bfloat16"), ("shards", "bfloat16"), ("bin", "float32")]
)
def test_another_type_or_form_is_written_once_and_equals_what_loading_rounds_to(
    form, dtype, model_folder, store, tmp_path, monkeypatch
):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    if form == "bin":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    monkeypatch.setattr(loading, "_SHARD_BYTES", 20_000 if form == "shards" else 2**30)
    source = locate_model(str(folder), store)
    resident, streamed = load_model(source, dtype), stream_model(source, dtype, store)
    assert streamed.identity == resident.identity
    assert (len(list((store.folder / "models").glob("*/model-*.safetensors"))) > 1) is (
        form == "shards"
    )
    assert torch.equal(streamed.model(IDS).logits, resident.model(IDS).logits)
    monkeypatch.setattr(loading, "_recast", lambda *_: pytest.fail("it was written again"))
    stream_model(source, dtype, store)


def test_weights_are_read_for_what_is_no_number_once_while_the_files_stay(
    model_folder, store, tmp_path, monkeypatch
):
    folder, looked, look = (
        shutil.copytree(model_folder, tmp_path / "copy"),
        [],
        loading.refuse_no_numbers,
    )
    monkeypatch.setattr(
        loading, "refuse_no_numbers", lambda *given: looked.append(1) or look(*given)
    )
    source = locate_model(str(folder), store)
    for n_looked in (1, 1):
        stream_model(source, "float32", store)
        assert len(looked) == n_looked
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"NaN or infinite values in .*down_proj"):
        stream_model(source, "float32", store)
