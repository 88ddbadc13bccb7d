"""Weights that stay in their files: where they are, what is given back, what a changed block is, and other types."""

import errno
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsedash.catalog.families import FAMILIES
from sparsedash.engine.models import loading, residency
from sparsedash.engine.models.decoder_blocks import forward_replaced
from sparsedash.engine.models.loading import ModelShelf, load_model, locate_model, stream_model
from sparsedash.engine.pruning.surgery import PrunedMlp, out_weight, pruned
from sparsedash.schema.errors import ModelError
from tests.engine.tiny import save_tiny


def ids():
    return torch.randint(1, 400, (2, 12), generator=torch.Generator().manual_seed(1))


def resident_bytes(tensor):
    """Of the file that the tensor lies in, what is in this process's memory, by the kernel's own count."""
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    counted, inside = 0, False
    with Path("/proc/self/smaps").open() as maps:
        for line in maps:
            name, _, rest = line.partition(" ")
            if "-" in name and not name.endswith(":"):
                first, last = (int(place, 16) for place in name.split("-"))
                inside = first < end and begin < last
            elif inside and name == "Rss:":
                counted += int(rest.split()[0]) * 1024
    return counted


@pytest.fixture
def streamed(model_folder, store):
    return stream_model(locate_model(str(model_folder), store), "float32", store)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_a_streamed_model_of_every_family_gives_the_same_logits_to_the_bit(model_type, store, tmp_path):
    source = locate_model(str(save_tiny(tmp_path / "model", model_type)), store)
    resident, streamed = load_model(source, "float32"), stream_model(source, "float32", store)
    assert streamed.residency.streamed
    assert not resident.residency.streamed
    assert torch.equal(streamed.model(ids()).logits, resident.model(ids()).logits)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_every_weight_is_a_view_of_its_own_file_and_none_is_copied(model_folder, store, monkeypatch):
    monkeypatch.setattr(residency.Streamed, "hold", lambda *_: pytest.fail("copied"))
    streamed = stream_model(locate_model(str(model_folder), store), "float32", store)
    assert len(streamed.residency._mapped) == len({p.data_ptr() for p in streamed.model.parameters()})


def test_where_no_system_tells_what_is_mapped_weights_are_copied_to_files(model_folder, store, monkeypatch):
    monkeypatch.setattr(residency, "mapped_files", list)
    source = locate_model(str(model_folder), store)
    streamed = stream_model(source, "float32", store)
    assert all(parameter.untyped_storage().filename for parameter in streamed.model.parameters())
    assert torch.equal(streamed.model(ids()).logits, load_model(source, "float32").model(ids()).logits)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is in memory")
def test_what_was_read_is_given_back_after_every_block_and_read_again(store, tmp_path):
    # Large enough that what the system reads around a page does not matter.
    folder = save_tiny(tmp_path / "model", hidden_size=256, intermediate_size=2048, num_hidden_layers=4)
    streamed = stream_model(locate_model(str(folder), store), "float32", store)
    weight = streamed.mlps[0].out.weight
    whole = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    before = weight.sum()
    assert resident_bytes(weight) >= weight.nbytes
    streamed.residency.drop()
    # But for the file's head, which holds no weights.
    assert resident_bytes(weight) < 2**16
    assert weight.sum() == before
    streamed.model(ids())
    # Of all the file's pages no more than the last block's and the head's are there.
    assert resident_bytes(weight) < whole / 2


@pytest.mark.parametrize(("freed", "given_back"), [(0, 0), (residency.MUCH, 0), (residency.MUCH + 1, 1)])
def test_of_a_model_in_memory_only_much_that_was_freed_is_given_back(freed, given_back, monkeypatch):
    calls = []
    monkeypatch.setattr(residency, "freed_bytes", lambda: freed)
    monkeypatch.setattr(residency, "give_back_freed", lambda: calls.append(1))
    residency.Resident().drop()
    assert len(calls) == given_back


def test_what_is_held_is_equal_and_leaves_no_file_behind(streamed, store):
    tensor = torch.arange(5000.0).reshape(50, 100)
    held = streamed.residency.hold(tensor)
    streamed.residency.drop()
    assert torch.equal(held, tensor)
    assert list((store.folder / loading.SCRATCH).iterdir()) == []
    view = held[3:]
    del held
    streamed.residency.drop()
    assert torch.equal(view, tensor[3:])


def test_what_is_held_together_is_equal_and_lies_in_one_file(streamed):
    n_files = len(streamed.residency._mapped)
    tensors = [torch.randn(2, 3, 5)[:, :2], torch.randn(7), torch.randn(1, 0, 2)]
    held = streamed.residency.hold_all(tensors)
    assert all(map(torch.equal, held, tensors))
    assert len(streamed.residency._mapped) == n_files + 1


def test_what_was_read_of_a_block_stays_for_other_models_that_run_it(streamed, monkeypatch):
    residency, (first, second, *_) = streamed.residency, streamed.blocks
    told, drop = [], type(streamed.residency).drop
    monkeypatch.setattr(type(residency), "drop", lambda self: told.append("dropped") or drop(self))
    for block in (first, first, second, second):
        with residency.changed([nullcontext] * len(streamed.blocks)):
            residency._enter(block)
            told.append(streamed.blocks.index(block))
    assert told == ["dropped", 0, 0, "dropped", 1, 1]


def test_nothing_is_given_back_once_its_file_is_gone_from_memory(streamed, monkeypatch):
    streamed.residency.drop()
    n_files = len(streamed.residency._mapped)
    held = streamed.residency.hold(torch.ones(5000))
    assert len(streamed.residency._mapped) == n_files + 1
    del held
    streamed.residency.drop()
    assert len(streamed.residency._mapped) == n_files


def test_a_full_disk_is_an_error_in_words(streamed, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(residency, "_new_mapping", full)
    with pytest.raises(ModelError, match="could not be put aside: No space left"):
        streamed.residency.hold(torch.ones(5000))


def test_a_block_is_changed_while_it_runs_and_dense_outside_of_it(streamed, model_folder, store):
    resident = load_model(locate_model(str(model_folder), store), "float32")
    made = [PrunedMlp(torch.arange(24), out_weight(mlp)[:, :24].clone()) for mlp in resident.mlps]
    with pruned(resident.mlps, made):
        expected = resident.model(ids()).logits
    dense = streamed.model(ids()).logits
    changes = [lambda m=mlp, n=narrow: pruned([m], [n]) for mlp, narrow in zip(streamed.mlps, made, strict=True)]
    with streamed.residency.changed(changes):
        assert torch.equal(streamed.model(ids()).logits, expected)
        assert torch.equal(streamed.model(ids()).logits, expected)
        # The last block that ran is still changed; all others are as they were.
        assert [mlp.width for mlp in streamed.mlps[:-1]] == [mlp.width for mlp in resident.mlps[:-1]]
    assert [mlp.width for mlp in streamed.mlps] == [mlp.width for mlp in resident.mlps]
    assert torch.equal(streamed.model(ids()).logits, dense)


def asked_for(streamed, monkeypatch):
    """Of each block, the names of the weights that the system is told to read ahead, while the model runs once."""
    asked = []
    soon, advise = residency._NEEDED_SOON, residency._advise
    monkeypatch.setattr(residency, "_advise", lambda *of: asked.append(of[:2]) if of[2] == soon else advise(*of))
    blocks = [dict(block.named_parameters()) for block in streamed.blocks]
    streamed.model(ids())
    return [{name for name, p in block.items() if (p.data_ptr(), p.nbytes) in asked} for block in blocks]


def test_the_next_block_is_asked_for_while_one_runs(streamed, monkeypatch):
    names = {name for name, _ in streamed.blocks[0].named_parameters()}
    first, *others = asked_for(streamed, monkeypatch)
    assert first == set()
    assert others == [names] * len(others)


def test_weights_in_whose_place_others_come_are_not_asked_for(streamed, monkeypatch):
    made = [PrunedMlp(torch.arange(24), out_weight(mlp)[:, :24].clone()) for mlp in streamed.mlps]
    made = [narrow.held(streamed.residency.hold) for narrow in made]
    changes = [lambda m=mlp, n=narrow: pruned([m], [n]) for mlp, narrow in zip(streamed.mlps, made, strict=True)]
    names = {name for name, _ in streamed.blocks[0].named_parameters()}
    with streamed.residency.changed(changes):
        _, *others = asked_for(streamed, monkeypatch)
    # Of the projections into the MLP, rows are taken.
    assert others == [names - {"mlp.down_proj.weight"}] * len(others)


def test_what_stands_in_for_a_block_brings_no_weights_in(streamed, monkeypatch):
    monkeypatch.setattr(streamed.residency, "_enter", lambda block: pytest.fail("brought in"))
    with forward_replaced(streamed.blocks, [lambda hidden, *args, **kwargs: hidden] * len(streamed.blocks)):
        streamed.model(ids())
    with pytest.raises(pytest.fail.Exception):
        streamed.model(ids())


def test_an_error_inside_leaves_the_dense_model(streamed):
    made = [PrunedMlp(torch.arange(24), out_weight(mlp)[:, :24].clone()) for mlp in streamed.mlps]
    widths = [mlp.width for mlp in streamed.mlps]
    changes = [lambda m=mlp, n=narrow: pruned([m], [n]) for mlp, narrow in zip(streamed.mlps, made, strict=True)]
    with pytest.raises(KeyError), streamed.residency.changed(changes):
        streamed.model(ids())
        raise KeyError
    assert [mlp.width for mlp in streamed.mlps] == widths


def test_another_type_is_written_once_and_equals_what_loading_rounds_to(model_folder, store, monkeypatch):
    source = locate_model(str(model_folder), store)
    resident, streamed = load_model(source, "bfloat16"), stream_model(source, "bfloat16", store)
    assert streamed.identity == resident.identity
    for (name, one), (_, other) in zip(
        streamed.model.named_parameters(), resident.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    assert torch.equal(streamed.model(ids()).logits, resident.model(ids()).logits)
    monkeypatch.setattr(loading, "_recast", lambda *_: pytest.fail("it was written again"))
    stream_model(source, "bfloat16", store)


def test_weights_in_several_files_are_written_in_several(model_folder, store, monkeypatch):
    monkeypatch.setattr(loading, "_SHARD_BYTES", 20_000)
    source = locate_model(str(model_folder), store)
    streamed = stream_model(source, "bfloat16", store)
    assert len(list((store.folder / "models").glob("*/model-*.safetensors"))) > 1
    assert torch.equal(streamed.model(ids()).logits, load_model(source, "bfloat16").model(ids()).logits)


def test_a_checkpoint_in_bin_files_is_written_as_safetensors(model_folder, store, tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for file in model_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    torch.save(load_file(model_folder / "model.safetensors"), folder / "pytorch_model.bin")
    source = locate_model(str(folder), store)
    streamed = stream_model(source, "float32", store)
    assert torch.equal(streamed.model(ids()).logits, load_model(source, "float32").model(ids()).logits)


def test_weights_that_are_no_numbers_are_refused_by_name(model_folder, store, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in model_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("down_proj.weight"))
    weights[name][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"NaN or infinite values in .*down_proj"):
        stream_model(locate_model(str(folder), store), "float32", store)


def test_the_shelf_tells_a_streamed_model_from_a_resident_one(model_folder, store):
    shelf, source = ModelShelf(), locate_model(str(model_folder), store)

    def streamed(*asked):
        return stream_model(*asked, store)

    first = shelf.take(source, "float32", streamed)
    assert shelf.take(source, "float32", streamed) is first
    assert not shelf.take(source, "float32").residency.streamed


def test_weights_are_read_for_what_is_no_number_once_while_the_files_stay(model_folder, store, tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(loading, "refuse_no_numbers", lambda *_: looked.append(1))
    folder = tmp_path / "copy"
    shutil.copytree(model_folder, folder)
    source = locate_model(str(folder), store)
    for n_looked in (1, 1):
        stream_model(source, "float32", store)
        assert len(looked) == n_looked
    os.utime(folder / "model.safetensors", ns=(1, 1))
    stream_model(source, "float32", store)
    assert len(looked) == 2
