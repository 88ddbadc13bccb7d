"""Models fetched from a stand-in for the hub that serves real layouts, and its failures.

The client is a process of its own, since the hub's address is read once, when its library is
imported.
"""

import json
import socket

import pytest
import torch
from safetensors.torch import save_file

from tests.engine.hub_client import HubClient
from tests.engine.hub_layouts import save
from tests.engine.tiny import tiny_model


def logits_of(model_type="llama", seed=0):
    return (
        tiny_model(model_type, seed)(torch.tensor([[1, 2, 3]]))
        .logits[0, -1, :8]
        .tolist()
    )


@pytest.mark.parametrize("layout", ["sharded safetensors", "bin", "sharded bin"])
def test_a_model_is_fetched_whole_and_named_by_its_commit(
    hub, client, tmp_path, layout
):
    name = f"owner/{layout.replace(' ', '-')}"
    folder = save(tmp_path / "m", layout=layout)
    (folder / "flax_model.msgpack").write_bytes(b"not read")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    if "bin" not in layout:
        (folder / "pytorch_model.bin").write_bytes(b"not read")
    repository = hub.add("models", name, folder)
    answer = client.ask(model=name)
    is_bin = "bin" in layout
    assert answer["identity"] == f"{name}@{repository.refs['main']}"
    assert answer["logits"] == pytest.approx(logits_of(), abs=1e-5)
    assert any("no safetensors" in warning for warning in answer["warnings"]) is is_bin
    assert not {"flax_model.msgpack", "onnx"} & set(answer["files"])
    assert any(file.endswith(".bin") for file in answer["files"]) is is_bin


def test_a_revision_is_a_model_of_its_own(hub, client, tmp_path):
    hub.add("models", "owner/revised", save(tmp_path / "new", seed=1))
    old = hub.add(
        "models",
        "owner/revised",
        save(tmp_path / "old", seed=2),
        "v1",
        "feature/x",
    )
    commit = old.refs["v1"]
    newest = client.ask(model="owner/revised")
    assert newest["logits"] == pytest.approx(logits_of(seed=1), abs=1e-5)
    for revision in ("v1", commit, "feature/x"):
        answer = client.ask(model=f"owner/revised@{revision}")
        assert answer["logits"] == pytest.approx(logits_of(seed=2), abs=1e-5)
        assert answer["identity"] == f"owner/revised@{commit}"


@pytest.mark.parametrize("revision", ["..", "refs/../x", "/etc", "a//b", ".git"])
def test_a_revision_that_leads_elsewhere_is_refused_before_the_hub_is_asked_or_a_folder_made(
    hub, client, revision
):
    before = sorted(client.home.rglob("*"))
    n_requests = len(hub.asked)
    assert (
        "neither a hub id nor a path"
        in client.ask(model=f"owner/revised@{revision}")["error"]
    )
    assert sorted(client.home.rglob("*")) == before
    assert len(hub.asked) == n_requests


def test_an_unknown_model_is_a_bad_argument_where_the_hub_is_silent_and_it_is_asked_once(
    tmp_path,
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = HubClient(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        command = [
            "run",
            "--model",
            "owner/unknown",
            "--data-dir",
            str(tmp_path / "data"),
        ]
        assert client.ask(shell=command) == {"code": 2}
        client.close()
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


REFUSALS = {
    "owner/missing": (
        "There is no owner/missing on the hub, or it is private.",
        "HF_TOKEN",
    ),
    "owner/gated": ("owner/gated is gated", "HF_TOKEN"),
    "owner/plain@v9": ("owner/plain has no revision 'v9'.", "after the @"),
    401: ("refused owner/plain (it answered 401 Unauthorized)", "HF_TOKEN"),
    404: ("(it answered 404 Not Found)", "Check the spelling"),
    429: ("(it answered 429 Too Many Requests)", "Try again in some minutes"),
    599: ("(it answered 599)", "Try again later"),
}
"""By a reference, or by a status without a word why."""


@pytest.mark.parametrize("cause", REFUSALS)
def test_a_refusal_of_the_hub_is_an_error_in_words(hub, client, tmp_path, cause):
    folder = save(tmp_path / "m")
    message, advice = REFUSALS[cause]
    hub.add("models", "owner/plain", folder)
    hub.add("models", "owner/gated", folder).gated = True
    hub.refuses_with = cause if isinstance(cause, int) else 0
    try:
        answer = client.ask(model="owner/plain" if hub.refuses_with else cause)
    finally:
        hub.refuses_with = 0
    assert message in answer["error"]
    assert advice in answer["advice"]


def test_an_unsupported_family_is_refused_before_its_weights_are_fetched(
    hub, client, tmp_path
):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "hrm_text"}))
    save_file({"w": torch.zeros(4)}, folder / "model.safetensors")
    hub.add("models", "owner/loops", folder)
    n_requests = len(hub.asked)
    assert "blocks cannot be run one by one" in client.ask(model="owner/loops")["error"]
    assert not any("safetensors" in request for request in hub.asked[n_requests:])


def test_an_interrupted_download_is_an_error_and_resumes_when_started_again(
    hub, client, tmp_path
):
    repository = hub.add(
        "models", "owner/broken", save(tmp_path / "m", layout="sharded safetensors")
    )
    repository.breaks_off = {"model-00002-of-00005.safetensors": 20_000}
    broken = client.ask(model="owner/broken")
    assert "owner/broken could not be fetched" in broken["error"]
    assert "Start again" in broken["advice"]
    repository.breaks_off = {}
    n_requests = len(hub.asked)
    assert client.ask(model="owner/broken")["logits"] == pytest.approx(
        logits_of(), abs=1e-5
    )
    fetched = [
        request
        for request in hub.asked[n_requests:]
        if request.startswith("GET /owner")
    ]
    assert len(fetched) < 5, "a complete file was fetched again"


def test_without_the_hub_what_was_fetched_once_works_and_the_rest_says_so(
    hub, client, tmp_path
):
    hub.add("models", "owner/kept", save(tmp_path / "m"))
    before = client.ask(model="owner/kept")
    hub.stop()
    try:
        assert client.ask(model="owner/kept") == before
        model = client.ask(model="owner/never-fetched")
        assert "not in the local cache, and the hub cannot be reached" in model["error"]
    finally:
        hub.start()
