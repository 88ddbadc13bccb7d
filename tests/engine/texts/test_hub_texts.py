"""Text sets fetched from a stand-in for the hub, whole or streamed, and interruptions."""

import gzip
import re

import pytest

from sparsedash.catalog.choices import HUB_TEXTS
from tests.engine.hub_texts import (
    json_lines,
    serve_parquet,
    serve_pile,
    write_card,
    write_parquet,
)

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize(
    "name", [name for name, row in HUB_TEXTS.items() if row.n_streamed is None]
)
def test_a_small_text_set_is_downloaded_as_parquet(hub, client, tmp_path, name):
    row = HUB_TEXTS[name]
    splits = {split: [f"the {split}", "a door"] for split in {row.split, *SPLITS}}
    serve_parquet(
        hub,
        tmp_path,
        row.path,
        row.config or "default",
        splits,
    )
    answer = client.ask(texts=name)
    assert answer["texts"] == [f"the {row.split}", "a door"]
    assert answer["running"] == (name == "wikitext-2")


def test_the_pile_is_streamed_from_its_compressed_files(hub, client, tmp_path):
    parts = [
        [f"document 0 {i}" for i in range(6_000)],
        [f"document 1 {i}" for i in range(6_000)],
    ]
    serve_pile(hub, tmp_path, "monology/pile-uncopyrighted", parts)
    texts = client.ask(texts="the_pile")["texts"]
    assert len(texts) == HUB_TEXTS["the_pile"].n_streamed == 10_000
    assert (texts[0], texts[-1]) == ("document 0 0", "document 1 3999")


def test_c4_is_streamed_once_and_is_there_without_the_hub_afterwards(
    hub, client, tmp_path
):
    pages = [f"page {i}" for i in range(10_001)]
    serve_c4(hub, tmp_path, "allenai/c4", pages)
    answer = client.ask(texts="c4")
    assert answer["texts"] == pages[:10_000]
    hub.stop()
    try:
        assert client.ask(texts="c4") == answer
    finally:
        hub.start()


def serve_c4(hub, folder, path, texts):
    (folder / "en").mkdir(parents=True)
    train = folder / "en" / "c4-train.00000-of-01024.json.gz"
    train.write_bytes(gzip.compress(json_lines(texts)))
    write_card(folder, "en", {"train": "en/c4-train.*.json.gz"})
    return hub.add("datasets", path, folder)


# Words that do not compress, so that the breaking point lies in the middle of the documents.
DOCUMENTS = [
    f"document {pow(7, i, 10**40 + 7):x} {pow(11, i, 10**40 + 9):x}"
    for i in range(1, 4000)
]
STREAMS = {"zst": "train/00.jsonl.zst", "gz": "en/c4-train.00000-of-01024.json.gz"}


HARMS = {
    "breaks, zst": (
        "zst",
        DOCUMENTS,
        "breaks",
        r"ended after [\d,]+ of 3,900 texts: .+",
    ),
    "breaks, gz": ("gz", DOCUMENTS, "breaks", r"ended after [\d,]+ of 3,900 texts: .+"),
    "cut off on the hub": ("gz", DOCUMENTS, "cut", "ended after"),
    "too short": (
        "gz",
        ["a page"] * 3,
        "",
        "ended after 3 of 3,900 texts: there were no more",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_stream_that_ends_midway_is_told_keeps_nothing_and_can_be_started_again(
    hub, client, tmp_path, harm
):
    kind, texts, what, message = HARMS[harm]
    path = f"owner/{harm.replace(', ', '-').replace(' ', '-')}"
    file = STREAMS[kind]
    serve = serve_c4 if kind == "gz" else serve_pile
    repository = serve(hub, tmp_path, path, texts if kind == "gz" else [texts])
    stored = next(iter(repository.commits.values()))[file]
    row = {
        "path": path,
        "config": "en" if kind == "gz" else None,
        "split": "train",
        "n_streamed": 3_900,
    }
    whole = stored.read_bytes()
    repository.breaks_off = {file: len(whole) // 2} if what == "breaks" else {}
    if what == "cut":
        stored.write_bytes(whole[: len(whole) // 2])
    broken = client.ask(texts=path, row=row)
    assert re.search(f"{path} {message}", broken["error"])
    assert (
        broken["advice"] == "Nothing of it was kept. Start again when the hub answers."
    )
    kept = f"*{path.replace('/', '--')}*.jsonl*"
    assert not list(client.home.rglob(kept))
    if what == "breaks":
        repository.breaks_off = {}
        assert client.ask(texts=path, row=row)["texts"] == DOCUMENTS[:3_900]
        assert len(list(client.home.rglob(kept))) == 1


def test_a_text_set_whose_download_breaks_is_told_and_once_read_is_there_without_the_hub(
    hub, client, tmp_path
):
    repository = serve_parquet(
        hub,
        tmp_path,
        "owner/whole",
        "default",
        {"train": DOCUMENTS},
    )
    repository.breaks_off = {"default/train-00000-of-00001.parquet": 10_000}
    row = {
        "path": "owner/whole",
        "config": "default",
        "split": "train",
    }
    assert (
        "owner/whole could not be read from the hub"
        in client.ask(texts="owner/whole", row=row)["error"]
    )
    repository.breaks_off = {}
    assert client.ask(texts="owner/whole", row=row)["texts"] == DOCUMENTS
    hub.stop()
    try:
        assert client.ask(texts="owner/whole", row=row)["texts"] == DOCUMENTS
        for more in ({}, {"n_streamed": 10}):
            never = client.ask(
                texts=f"never{len(more)}",
                row=row | {"path": f"owner/never{len(more)}"} | more,
            )
            assert (
                "not in the local cache, and the hub cannot be reached"
                in never["error"]
            )
            assert "builtin:cloze" in never["advice"]
    finally:
        hub.start()


def test_a_text_set_that_the_hub_refuses_is_told_in_words(hub, client, tmp_path):
    write_parquet(tmp_path / "data" / "0000.parquet", ["a text"])
    hub.add("datasets", "owner/gated-texts", tmp_path).gated = True
    for path, message in (
        ("owner/gated-texts", "gated"),
        ("owner/no-texts", "doesn't exist"),
    ):
        refused = client.ask(
            texts=path,
            row={"path": path, "split": "train"},
        )
        assert message in refused["error"]
        assert "HF_TOKEN" in refused["advice"]
