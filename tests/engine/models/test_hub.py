"""Models fetched from a stand-in for the hub that serves real file layouts, and every way it can fail.

The client is a process of its own, since the hub's address is read once, when its library is imported.
"""

import json
import socket

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.conftest import passages
from tests.engine.hub_client import HubClient
from tests.engine.hub_layouts import PUBLISHED_FAMILIES, save, save_published
from tests.engine.tiny import tiny_model


def logits_of(model_type="llama", seed=0):
    return tiny_model(model_type, seed)(torch.tensor([[1, 2, 3]])).logits[0, -1, :8].tolist()


def test_a_sharded_model_is_fetched_whole_and_named_by_its_commit(hub, client, tmp_path):
    repository = hub.add("models", "owner/sharded", save(tmp_path / "m", layout="sharded safetensors"))
    found = client.ask(model="owner/sharded")
    assert found["identity"] == f"owner/sharded@{repository.refs['main']}"
    assert found["logits"] == pytest.approx(logits_of(), abs=1e-5)
    assert found["warnings"] == []


@pytest.mark.parametrize("layout", ["bin", "sharded bin"])
def test_a_repository_of_bin_files_is_read_as_plain_weights_with_a_warning(hub, client, tmp_path, layout):
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
        client.ask(model=f"owner/revised{revision}") for revision in ("", "@v1", f"@{old.refs['v1']}")
    )
    assert newest["logits"] == pytest.approx(logits_of(seed=1), abs=1e-5)
    assert by_tag["logits"] == by_commit["logits"] == pytest.approx(logits_of(seed=2), abs=1e-5)
    assert by_tag["identity"] == by_commit["identity"] != newest["identity"]


@pytest.mark.parametrize("revision", ["refs/pr/1", "feature/x"])
def test_a_revision_may_have_slashes(hub, client, tmp_path, revision):
    branch = hub.add("models", "owner/branched", save(tmp_path / "m", seed=3), revision)
    found = client.ask(model=f"owner/branched@{revision}")
    assert found["identity"] == f"owner/branched@{branch.refs[revision]}"
    assert found["logits"] == pytest.approx(logits_of(seed=3), abs=1e-5)


@pytest.mark.parametrize("revision", ["..", "../../../../x", "refs/../x", "a/..", "/etc", "a//b", ".git"])
def test_a_revision_that_leads_elsewhere_is_refused_before_the_hub_is_asked_or_a_folder_made(hub, client, revision):
    before, seen = sorted(client.home.rglob("*")), len(hub.asked)
    assert "neither a hub id nor a path" in client.ask(model=f"owner/branched@{revision}")["error"]
    assert sorted(client.home.rglob("*")) == before
    assert len(hub.asked) == seen


def test_an_unknown_model_is_a_bad_argument_where_the_hub_is_silent_and_it_is_asked_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = HubClient(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        command = ["run", "--model", "owner/unknown", "--data-dir", str(tmp_path / "data")]
        assert client.ask(shell=command) == {"code": 2}
        client.close()
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


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


ANSWERED = {
    401: ("does not give owner/told to this machine (it answered 401 Unauthorized)", "HF_TOKEN"),
    403: ("does not give owner/told to this machine (it answered 403 Forbidden)", "HF_TOKEN"),
    404: ("has no owner/told (it answered 404 Not Found)", "Check the spelling"),
    418: ("could not be fetched: the hub answered 418", "Check the spelling"),
    429: ("was asked too often (it answered 429 Too Many Requests)", "Try again in some minutes"),
    500: ("is in trouble (it answered 500 Internal Server Error)", "Try again later"),
    503: ("is in trouble (it answered 503 Service Unavailable)", "Try again later"),
    599: ("is in trouble (it answered 599)", "Try again later"),
}


@pytest.mark.parametrize("status", ANSWERED)
def test_an_answer_without_a_word_why_is_not_taken_for_no_answer(hub, client, status):
    message, advice = ANSWERED[status]
    hub.refuses_with = status
    try:
        found = client.ask(model="owner/told")
    finally:
        hub.refuses_with = 0
    assert message in found["error"]
    assert advice in found["advice"]


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
    repository = hub.add("models", "owner/broken", save(tmp_path / "m", layout="sharded safetensors"))
    repository.breaks_off = {"model-00002-of-00005.safetensors": 20_000}
    found = client.ask(model="owner/broken")
    assert "owner/broken could not be fetched" in found["error"]
    assert "Start again" in found["advice"]
    repository.breaks_off = {}
    asked = len(hub.asked)
    assert client.ask(model="owner/broken")["logits"] == pytest.approx(logits_of(), abs=1e-5)
    fetched = [request for request in hub.asked[asked:] if request.startswith("GET /owner")]
    assert len(fetched) < 5, "what had arrived whole was fetched again"


def test_without_the_hub_what_was_fetched_once_works_and_the_rest_says_so(hub, client, tmp_path):
    hub.add("models", "owner/kept", save(tmp_path / "m"))
    before = client.ask(model="owner/kept")
    hub.stop()
    try:
        assert client.ask(model="owner/kept") == before
        model = client.ask(model="owner/never-fetched")
        assert "not in the local cache, and the hub cannot be reached" in model["error"]
    finally:
        hub.start()


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_weights_that_are_cut_off_on_the_hub_are_told_in_words(hub, client, tmp_path, layout):
    folder = save(tmp_path / "m", layout=layout)
    (file,) = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    hub.add("models", f"owner/cut-{layout}", folder)
    found = client.ask(model=f"owner/cut-{layout}")
    assert f"owner/cut-{layout} could not be read" in found["error"]


TOKENS = {
    "EleutherAI/gpt-j-6b": ("GPT2Tokenizer", ()),
    "facebook/opt-1.3b": ("GPT2Tokenizer", (2,)),
    "huggyllama/llama-7b": ("LlamaTokenizer", (1,)),
    "bigscience/bloom-1b7": ("TokenizersBackend", ()),
}
"""The class that reads each family's own tokenizer files, and what it puts before a text.

BLOOM's has none of its own left.
"""


@pytest.mark.parametrize("reference", TOKENS)
def test_each_published_family_is_read_with_its_own_tokenizer(hub, client, tmp_path, reference):
    hub.add("models", f"copy-of/{reference.partition('/')[2]}", save_published(tmp_path, reference))
    found = client.ask(model=f"copy-of/{reference.partition('/')[2]}")
    name, first = TOKENS[reference]
    assert found["tokenizer"] == name
    assert len(found["tokens"]) == len(first) + 2
    assert tuple(found["tokens"][: len(first)]) == first


@pytest.mark.parametrize("reference", PUBLISHED_FAMILIES)
def test_each_published_family_goes_through_the_whole_job_by_its_reference(hub, client, tmp_path, reference):
    _, layout = PUBLISHED_FAMILIES[reference]
    hub.add("models", reference, save_published(tmp_path / "model", reference))
    texts = tmp_path / "passages.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in passages(40)))
    document = tmp_path / "out.json"
    answer = client.ask(
        shell=[
            "run",
            "--model",
            reference,
            "--calibration",
            f"file:{texts}[12:]",
            "--calibration-samples",
            "40",
            "--calibration-length",
            "32",
            "--evaluation",
            f"file:{texts}[:12]",
            "--method",
            "least-squares",
            "--sparsity",
            "25",
            "--width-multiple",
            "8",
            "--rule",
            "published",
            "--data-dir",
            str(tmp_path / "data"),
            "--json",
            str(document),
        ]
    )
    assert answer == {"code": 0}
    written = json.loads(document.read_text())
    assert written["model"]["identity"].startswith(f"{reference}@")
    assert written["settings"]["evaluation"]["rule"] == "published"
    assert set(written["sparse"][0]["widths"]) == {72}
    assert written["dense"]["last_token"]["total"] == 12
    assert any("no safetensors" in warning for warning in written["warnings"]) == ("bin" in layout)
