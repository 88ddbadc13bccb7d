"""Models and text sets fetched from a stand-in for the hub that serves real file layouts, and every way it can fail.

The client is a process of its own, since the hub's address is read once, when its library is imported.
"""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
import zstandard
from safetensors.torch import save_file

from sparsedash.engine.corpora import CORPORA
from tests.engine.conftest import passages
from tests.engine.hub_client import HubClient
from tests.engine.hub_stand_in import Hub
from tests.engine.tiny import CONFIGS, save_tiny, tiny_model

SHARD = "60KB"
PUBLISHED_FAMILIES = {
    "EleutherAI/gpt-j-6b": ("gptj", "bin"),
    "facebook/opt-1.3b": ("opt", "bin"),
    "facebook/opt-2.7b": ("opt", "sharded bin"),
    "huggyllama/llama-7b": ("llama", "sharded safetensors"),
    "bigscience/bloom-1b7": ("bloom", "safetensors"),
    "bigscience/bloom-7b1": ("bloom", "sharded safetensors"),
}
"""The models of the published tables by their reference: their family, and one of the layouts that the hub has."""


@pytest.fixture(scope="module")
def hub():
    served = Hub()
    yield served
    served.stop()


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    opened = HubClient(hub.url, tmp_path_factory.mktemp("home"))
    yield opened
    opened.close()


def save(
    folder: Path, model_type: str = "llama", layout: str = "safetensors", seed: int = 0
) -> Path:
    """A tiny random model as a repository of the hub holds one."""
    save_tiny(folder, model_type, seed)
    if layout == "safetensors":
        return folder
    (folder / "model.safetensors").unlink()
    model = tiny_model(model_type, seed)
    if layout == "sharded safetensors":
        model.save_pretrained(folder, max_shard_size=SHARD)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    elif layout == "bin":
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    else:
        _save_bin_shards(model.state_dict(), folder)
    return folder


def _save_bin_shards(state, folder):
    """Two .bin files and their index, as repositories from before safetensors have them."""
    names = sorted(state)
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in sorted(set(files.values())):
        torch.save({name: state[name] for name in names if files[name] == file}, folder / file)
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def logits_of(model_type="llama", seed=0):
    return tiny_model(model_type, seed)(torch.tensor([[1, 2, 3]])).logits[0, -1, :8].tolist()


def test_a_sharded_model_is_fetched_whole_and_named_by_its_commit(hub, client, tmp_path):
    repository = hub.add(
        "models", "owner/sharded", save(tmp_path / "m", layout="sharded safetensors")
    )
    found = client.ask(model="owner/sharded")
    assert found["identity"] == f"owner/sharded@{repository.refs['main']}"
    assert found["logits"] == pytest.approx(logits_of(), abs=1e-5)
    assert found["warnings"] == []


@pytest.mark.parametrize("layout", ["bin", "sharded bin"])
def test_a_repository_of_bin_files_is_read_as_plain_weights_with_a_warning(
    hub, client, tmp_path, layout
):
    name = f"owner/{layout.replace(' ', '-')}"
    hub.add("models", name, save(tmp_path / "m", layout=layout))
    found = client.ask(model=name)
    assert found["logits"] == pytest.approx(logits_of(), abs=1e-5)
    assert "no safetensors" in found["warnings"][0]


def test_bin_files_and_other_formats_beside_safetensors_are_not_fetched(hub, client, tmp_path):
    folder = save(tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    (folder / "flax_model.msgpack").write_bytes(b"not read")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    hub.add("models", "owner/many-formats", folder)
    files = client.ask(model="owner/many-formats")["files"]
    assert "model.safetensors" in files
    assert not {"pytorch_model.bin", "flax_model.msgpack", "onnx"} & set(files)


def test_a_revision_is_a_model_of_its_own(hub, client, tmp_path):
    hub.add("models", "owner/revised", save(tmp_path / "new", seed=1))
    old = hub.add("models", "owner/revised", save(tmp_path / "old", seed=2), "v1")
    newest, by_tag, by_commit = (
        client.ask(model=f"owner/revised{revision}")
        for revision in ("", "@v1", f"@{old.refs['v1']}")
    )
    assert newest["logits"] == pytest.approx(logits_of(seed=1), abs=1e-5)
    assert by_tag["logits"] == by_commit["logits"] == pytest.approx(logits_of(seed=2), abs=1e-5)
    assert by_tag["identity"] == by_commit["identity"] != newest["identity"]


def test_what_the_hub_refuses_is_told_in_words(hub, client, tmp_path):
    folder = save(tmp_path / "m")
    hub.add("models", "owner/plain", folder)
    hub.add("models", "owner/gated", folder).gated = True
    missing = client.ask(model="owner/missing")
    assert missing["error"] == "There is no owner/missing on the hub, or it is private."
    gated = client.ask(model="owner/gated")
    assert gated["error"].startswith("owner/gated is gated")
    assert "HF_TOKEN" in gated["advice"]
    revision = client.ask(model="owner/plain@v9")
    assert revision["error"] == "owner/plain has no revision 'v9'."


def test_an_unsupported_family_is_refused_before_its_weights_are_fetched(hub, client, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    save_file({"w": torch.zeros(4)}, folder / "model.safetensors")
    hub.add("models", "owner/mamba", folder)
    asked = len(hub.asked)
    assert "'mamba' cannot be pruned yet" in client.ask(model="owner/mamba")["error"]
    assert not any("safetensors" in request for request in hub.asked[asked:])


def test_a_download_that_breaks_off_is_told_and_goes_on_when_started_again(hub, client, tmp_path):
    repository = hub.add(
        "models", "owner/broken", save(tmp_path / "m", layout="sharded safetensors")
    )
    repository.breaks_off = {"model-00002-of-00005.safetensors"}
    found = client.ask(model="owner/broken")
    assert "owner/broken could not be fetched" in found["error"]
    assert "Start again" in found["advice"]
    repository.breaks_off = set()
    asked = len(hub.asked)
    assert client.ask(model="owner/broken")["logits"] == pytest.approx(logits_of(), abs=1e-5)
    fetched = [request for request in hub.asked[asked:] if request.startswith("GET /owner")]
    assert len(fetched) < 5, "what had arrived whole was fetched again"


def test_without_the_hub_what_was_fetched_once_works_and_the_rest_says_so(hub, client, tmp_path):
    hub.add("models", "owner/kept", save(tmp_path / "m"))
    _serve_lambada(hub, tmp_path)
    before = client.ask(model="owner/kept"), client.ask(texts="lambada")
    hub.stop()
    try:
        assert (client.ask(model="owner/kept"), client.ask(texts="lambada")) == before
        model = client.ask(model="owner/never-fetched")
        assert "not in the local cache, and the hub cannot be reached" in model["error"]
        texts = client.ask(texts="wikitext-2")
        assert "not in the local cache, and the hub cannot be reached" in texts["error"]
        assert "builtin:cloze" in texts["advice"]
    finally:
        hub.start()


def _write_parquet(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


def _card(folder, config, splits):
    """A dataset card that says which files belong to which split, as the hub's do."""
    lines = ["---", "license: other", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, pattern in splits.items():
        lines += [f"  - split: {split}", f"    path: {pattern}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def _serve_lambada(hub, folder):
    folder = folder / "lambada"
    splits = ("train", "validation", "test")
    for split in splits:
        _write_parquet(
            folder / "plain_text" / f"{split}-00000-of-00001.parquet", [f"the {split}", "a door"]
        )
    _card(folder, "plain_text", {split: f"plain_text/{split}-*" for split in splits})
    hub.add("datasets", "cimec/lambada", folder)


def test_every_split_of_lambada_is_read_as_the_plain_text_it_is(hub, client, tmp_path):
    _serve_lambada(hub, tmp_path)
    found = {
        name: client.ask(texts=name) for name in ("lambada", "lambada-validation", "lambada-train")
    }
    assert [answer["texts"] for answer in found.values()] == [
        ["the test", "a door"], ["the validation", "a door"], ["the train", "a door"],
    ]  # fmt: skip
    assert len({answer["identity"] for answer in found.values()}) == 3


@pytest.mark.parametrize("name", ["lambada_openai", "pile-10k", "wikitext-2"])
def test_a_small_text_set_is_downloaded_as_parquet(hub, client, tmp_path, name):
    row = CORPORA[name]
    config = row.config or "default"
    _write_parquet(tmp_path / config / "0000.parquet", ["one text", "another text"])
    _card(tmp_path, config, {row.split: f"{config}/*.parquet"})
    hub.add("datasets", row.path, tmp_path)
    found = client.ask(texts=name)
    assert found["texts"] == ["one text", "another text"]
    assert found["running"] == (name == "wikitext-2")


def _json_lines(texts):
    return "".join(json.dumps({"text": text, "meta": {}}) + "\n" for text in texts).encode()


def test_the_pile_is_streamed_from_its_compressed_files(hub, client, tmp_path):
    (tmp_path / "train").mkdir()
    for part in range(2):
        lines = _json_lines(f"document {part} {i}" for i in range(6_000))
        (tmp_path / "train" / f"0{part}.jsonl.zst").write_bytes(zstandard.compress(lines))
    for other in ("val", "test"):
        (tmp_path / f"{other}.jsonl.zst").write_bytes(zstandard.compress(_json_lines(["other"])))
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
    hub.add("datasets", "monology/pile-uncopyrighted", tmp_path)
    found = client.ask(texts="the_pile")["texts"]
    assert len(found) == CORPORA["the_pile"].n_streamed == 10_000
    assert (found[0], found[-1]) == ("document 0 0", "document 1 3999")


def test_c4_is_streamed_once_and_is_there_without_the_hub_afterwards(hub, client, tmp_path):
    (tmp_path / "en").mkdir()
    train = tmp_path / "en" / "c4-train.00000-of-01024.json.gz"
    train.write_bytes(gzip.compress(_json_lines(["a page", "another page"])))
    _card(tmp_path, "en", {"train": "en/c4-train.*.json.gz"})
    hub.add("datasets", "allenai/c4", tmp_path)
    found = client.ask(texts="c4")
    assert found["texts"] == ["a page", "another page"]
    hub.stop()
    try:
        assert client.ask(texts="c4") == found
    finally:
        hub.start()


def test_a_text_set_that_the_hub_refuses_is_told_in_words(hub, client, tmp_path):
    _write_parquet(tmp_path / "data" / "0000.parquet", ["a text"])
    hub.add("datasets", "owner/gated-texts", tmp_path).gated = True
    for path, said in (("owner/gated-texts", "gated"), ("owner/no-texts", "doesn't exist")):
        refused = client.ask(texts=path, row={"path": path, "split": "train"})
        assert said in refused["error"]
        assert "HF_TOKEN" in refused["advice"]


@pytest.mark.parametrize("reference", PUBLISHED_FAMILIES)
def test_each_published_family_goes_through_the_whole_job_by_its_reference(
    hub, client, tmp_path, reference
):
    model_type, layout = PUBLISHED_FAMILIES[reference]
    assert model_type in CONFIGS
    hub.add("models", reference, save(tmp_path / "model", model_type, layout))
    texts = tmp_path / "passages.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in passages(40)))
    document = tmp_path / "out.json"
    answer = client.ask(
        shell=[
            "run", "--model", reference, "--calibration", f"file:{texts}[12:]", "--calibration-samples", "40",
            "--calibration-length", "32", "--evaluation", f"file:{texts}[:12]", "--sparsity", "25",
            "--width-multiple", "8", "--rule", "published", "--data-dir", str(tmp_path / "data"), "--json", str(document),
        ]
    )  # fmt: skip
    assert answer == {"code": 0}
    written = json.loads(document.read_text())
    assert written["model"]["identity"].startswith(f"{reference}@")
    assert written["settings"]["evaluation"]["rule"] == "published"
    assert set(written["sparse"][0]["widths"]) == {72}
    assert written["dense"]["last_token"]["total"] == 12
    assert any("no safetensors" in warning for warning in written["warnings"]) == ("bin" in layout)
