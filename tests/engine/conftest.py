"""A tiny model in a folder, small text files, and a store, for the tests of the engine."""

import json

import pytest

from sparsedash.engine.models import locating
from sparsedash.storage.store import Store
from tests.engine.hub_client import HubClient
from tests.engine.hub_stand_in import Hub
from tests.engine.tiny import load_folder, save_tiny, small_run

WORDS = "the lamp and the boat and the letter went home to the harbour where Anna waited by the door"


def write_jsonl(path, texts):
    path.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8"
    )
    return path


def passages(n):
    words = WORDS.split()
    texts = []
    for i in range(n):
        places = [i * 5 + j * (1 + i % 3) for j in range(12 + 3 * (i % 7))]
        texts.append(" ".join(words[place % len(words)] for place in places))
    return texts


@pytest.fixture(scope="session", autouse=True)
def tokenizers_are_tried_once():
    """The trial takes a process of its own: once for each tokenizer of the session."""
    tried = set()
    require_usable = locating.require_usable

    def once(folder, reference, n_known):
        file = folder / "tokenizer.json"
        key = (file.read_bytes(), n_known) if file.is_file() else None
        if key not in tried:
            require_usable(folder, reference, n_known)
            tried.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locating, "require_usable", once)
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def passage_file(tmp_path_factory):
    return write_jsonl(
        tmp_path_factory.mktemp("texts") / "passages.jsonl", passages(40)
    )


@pytest.fixture(scope="session")
def settings(model_folder, passage_file):
    """Of a small run."""
    text = f"file:{passage_file}"
    return small_run(
        model_folder,
        text,
        f"{text}[20:]",
        sparsities_permille=(250, 500),
    )


@pytest.fixture(scope="session")
def loaded(model_folder, tmp_path_factory):
    opened = Store(tmp_path_factory.mktemp("data"))
    yield load_folder(model_folder, opened)
    opened.close()


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
