"""Taking a sparse model away: what is written, that a fresh process proves it, and what is refused."""

import hashlib
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from sparsedash.engine.export import export as module
from sparsedash.engine.export.export import export_model, prove_export
from sparsedash.engine.export.model_card import public_name
from sparsedash.engine.models.loading import ModelShelf
from sparsedash.engine.run import pipeline
from sparsedash.schema.errors import Cancelled, ExportError, JobError
from sparsedash.schema.export_settings import Export
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.storage.model_folders import unfinished_exports
from sparsedash.storage.store import Store
from tests.engine.export.conftest import asked, run_settings
from tests.engine.tiny import save_tiny
from tests.service.made import exports_of

BEST, EVEN, MASKS = 0, 1, 2


@pytest.fixture
def run(finished_run, model_folder):
    return finished_run(model_folder)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("number", "form"), [(EVEN, "uniform"), (BEST, "padded"), (BEST, "masked"), (MASKS, "masked")])
def test_the_folder_holds_all_that_is_needed_and_is_proven(number, form, run, model_folder, tmp_path):
    store, shelf, finished = run
    made = export_model(asked(finished, number, form, tmp_path / "out"), store, shelf, ignore_steps)
    out = tmp_path / "out"
    assert {"model.safetensors", "config.json", "tokenizer.json", "recipe.json", "README.md"} <= set(left_in(out))
    assert left_in(tmp_path) == ["out"]
    assert (out / "tokenizer.json").read_bytes() == (model_folder / "tokenizer.json").read_bytes()
    assert made.proof.holds
    assert (made.proof.n_logits, made.proof.n_verdicts, made.proof.n_run) == (16, 20, 20)
    assert made.proof.logit_difference <= 1e-4
    assert store.get(Export, made.key) == made
    assert made.n_bytes == sum(path.stat().st_size for path in out.iterdir())


def test_the_licence_goes_along_every_file_has_its_sum_and_the_mode_is_that_of_the_umask(
    passage_file, tmp_path_factory, tmp_path, finished_run
):
    base = save_tiny(tmp_path_factory.mktemp("licensed") / "tiny")
    kept = ("LICENSE", "NOTICE.md", "License.txt", "tokenizer.model", "chat_template.jinja")
    for name in kept:
        (base / name).write_text(name)
    (base / "modeling.py").write_text("raise SystemExit")
    (base / "tokenizer.py").write_text("raise SystemExit")
    store, shelf, run = finished_run(base, ("magnitude",))
    before = os.umask(0o027)
    try:
        made = export_model(asked(run, 0, "uniform", tmp_path / "out"), store, shelf, ignore_steps)
    finally:
        os.umask(before)
    out = tmp_path / "out"
    assert all((out / name).read_text() == name for name in kept)
    assert not list(out.glob("*.py"))
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == dict.fromkeys(
        left_in(out), 0o640
    )
    sums = json.loads((out / "recipe.json").read_text())["sha256"]
    assert sums.keys() == set(left_in(out)) - {"recipe.json", "README.md"}
    for name, digest in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest == made.files[name]


def test_only_the_width_of_the_base_s_own_config_is_changed(run, model_folder, tmp_path):
    store, shelf, finished = run
    export_model(asked(finished, EVEN, "uniform", tmp_path / "out"), store, shelf, ignore_steps)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (model_folder, tmp_path / "out"))
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"intermediate_size"}
    assert after["intermediate_size"] == store.get(Record, finished.sparse[EVEN]).pruned.widths[0]


def test_weights_of_another_type_are_stated_as_such_and_proven_as_rounded(run, tmp_path):
    store, shelf, finished = run
    made = export_model(
        asked(finished, BEST, "padded", tmp_path / "out", weights="bfloat16"), store, shelf, ignore_steps
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert made.proof.n_meant == made.proof.n_verdicts
    assert made.proof.logit_difference <= 1e-4
    again = export_model(asked(finished, BEST, "padded", tmp_path / "two"), store, shelf, ignore_steps)
    assert again.proof.n_run == again.proof.n_verdicts, "rounding in memory must not reach the next export"


@pytest.fixture(scope="session")
def narrow_model(tmp_path_factory):
    """Gemma, whose code rounds a factor of its own to the type that it is loaded in."""
    return save_tiny(tmp_path_factory.mktemp("narrow") / "tiny", "gemma3_text")


@pytest.mark.parametrize(
    ("number", "form", "weights"),
    [
        (EVEN, "uniform", "bfloat16"),
        (BEST, "padded", "bfloat16"),
        (BEST, "masked", "bfloat16"),
        (MASKS, "masked", "bfloat16"),
        (BEST, "padded", "float32"),
        (BEST, "masked", "float16"),
    ],
)
def test_a_bfloat16_run_is_proven_by_what_its_files_hold(number, form, weights, narrow_model, finished_run, tmp_path):
    store, shelf, run = finished_run(narrow_model, dtype="bfloat16")
    made = export_model(asked(run, number, form, tmp_path / "out", weights=weights), store, shelf, ignore_steps)
    assert made.proof.logit_difference <= 1e-4 < made.proof.logit_allowed == 1e-3
    assert made.proof.n_meant == made.proof.n_verdicts
    assert not made.proof.strict and made.proof.n_run >= 18


def test_weights_are_cut_into_shards_of_the_size_asked_for(finished_run, tmp_path):
    base = save_tiny(tmp_path / "wide", hidden_size=320, num_attention_heads=40)
    store, shelf, finished = finished_run(base)
    made = export_model(asked(finished, EVEN, "uniform", tmp_path / "out", shard_mb=1), store, shelf, ignore_steps)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 1 and max(shard.stat().st_size for shard in shards) < 1_050_000
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert made.proof.holds


@pytest.mark.parametrize(
    ("number", "form", "why"),
    [
        (BEST, "uniform", "its blocks have different widths"),
        (MASKS, "padded", "no channel has left"),
        (MASKS, "gguf", "no channel has left"),
    ],
)
def test_a_form_that_does_not_apply_is_refused_with_the_reason(number, form, why, run, tmp_path):
    store, shelf, finished = run
    with pytest.raises(ExportError, match=why):
        export_model(asked(finished, number, form, tmp_path / "out"), store, shelf, ignore_steps)
    assert left_in(tmp_path) == []


def test_a_bias_that_stock_code_has_no_place_for_is_refused(finished_run, tmp_path):
    base = save_tiny(tmp_path / "tiny", "qwen2")
    store, shelf, finished = finished_run(base, ("flap",))
    with pytest.raises(ExportError, match="given a bias, for which this family's stock code has no place"):
        export_model(asked(finished, 0, "padded", tmp_path / "out"), store, shelf, ignore_steps)


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_what_exists_is_never_written_into(there, run, tmp_path):
    store, shelf, finished = run
    out = tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "link": lambda: out.symlink_to("nowhere")}[there]()
    with pytest.raises(ExportError, match="exists, and nothing is written into it"):
        export_model(asked(finished, EVEN, "uniform", out), store, shelf, ignore_steps)
    assert left_in(tmp_path) == ["out"]
    assert there != "folder" or left_in(out) == []


def test_what_the_same_request_has_made_is_given_again_while_it_is_whole(run, tmp_path):
    store, shelf, finished = run
    request = asked(finished, EVEN, "uniform", tmp_path / "out")
    made = export_model(request, store, shelf, ignore_steps)
    assert export_model(request, store, shelf, ignore_steps) == made
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(ExportError, match="exists, and nothing is written into it"):
        export_model(request, store, shelf, ignore_steps)


def test_an_end_between_the_record_and_the_name_leaves_nothing_that_is_listed(run, tmp_path, monkeypatch):
    store, shelf, finished = run
    request = asked(finished, EVEN, "uniform", tmp_path / "out")
    with monkeypatch.context() as changed, pytest.raises(KeyboardInterrupt):
        changed.setattr(os, "rename", ended)
        export_model(request, store, shelf, ignore_steps)
    assert store.get(Export, request.key()) is not None
    assert not exports_of(store).is_whole(request.key())
    made = export_model(request, store, shelf, ignore_steps)
    assert made in exports_of(store).listed()


def ended(*_):
    raise KeyboardInterrupt


def test_a_data_folder_that_was_moved_finds_its_exports(passage_file, model_folder, tmp_path):
    store, shelf = Store(tmp_path / "here"), ModelShelf()
    run = pipeline.run(run_settings(model_folder, passage_file, ("magnitude",)), store, shelf=shelf)
    request = replace(asked(run, 0, "uniform", "x"), to="")
    made = export_model(request, store, shelf, ignore_steps)
    store.close()
    moved = Store((tmp_path / "here").rename(tmp_path / "there"))
    try:
        (found,) = exports_of(moved).listed()
        assert found == replace(made, folder=made.folder.replace("/here/", "/there/"))
        assert exports_of(moved).is_ours(found)
        assert export_model(request, moved, shelf, ignore_steps) == found, "it is found, and not made again"
    finally:
        moved.close()


@pytest.mark.parametrize("killed_at", ["writing", "renamed"])
def test_who_tries_again_after_a_kill_finds_nothing_left(killed_at, run, tmp_path, monkeypatch):
    store, shelf, finished = run
    request = asked(finished, EVEN, "uniform", tmp_path / "out")
    killed = lambda path, **_: None  # noqa: E731 - a killed process deletes nothing
    with monkeypatch.context() as changed:
        changed.setattr("shutil.rmtree", killed)
        if killed_at == "writing":
            changed.setattr(module, "write_checkpoint", ended)
            with pytest.raises(KeyboardInterrupt):
                export_model(request, store, shelf, ignore_steps)
        else:
            export_model(request, store, shelf, ignore_steps)
    assert len(unfinished_exports(tmp_path)) == 1
    export_model(request, store, shelf, ignore_steps)
    assert left_in(tmp_path) == ["out"]


def test_who_stops_it_leaves_nothing(run, tmp_path):
    store, shelf, finished = run

    def stop(step):
        if step.stage == "prove" and step.done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        export_model(asked(finished, EVEN, "uniform", tmp_path / "out"), store, shelf, stop)
    assert left_in(tmp_path) == []


def test_a_base_that_has_changed_since_is_refused(passage_file, store, tmp_path):
    base = save_tiny(tmp_path / "tiny")
    finished = pipeline.run(run_settings(base, passage_file, ("magnitude",)), store, shelf=ModelShelf())
    save_tiny(base, seed=7)
    with pytest.raises(JobError, match="is not what it was when this result was made"):
        export_model(asked(finished, 0, "padded", tmp_path / "out"), store, ModelShelf(), ignore_steps)
    assert left_in(tmp_path) == ["data", "tiny"]


def test_files_that_are_another_model_are_deleted_and_the_difference_is_said(run, tmp_path, monkeypatch):
    store, shelf, finished = run
    whole = module.write_checkpoint

    def one_weight_off(folder, *rest):
        whole(folder, *rest)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.mlp.down_proj.weight"][0] += 1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(module, "write_checkpoint", one_weight_off)
    with pytest.raises(ExportError, match=r"are not the sparse model: logits differ by up to [0-9.]+ \(0\.001") as told:
        export_model(asked(finished, EVEN, "uniform", tmp_path / "out"), store, shelf, ignore_steps)
    assert left_in(tmp_path) == []
    assert "the run and its results are kept. Try another form" in told.value.advice
    assert store.get(Record, finished.sparse[EVEN]) is not None


def test_files_that_cannot_be_loaded_are_deleted_and_the_reason_is_said(run, tmp_path, monkeypatch):
    store, shelf, finished = run
    monkeypatch.setattr(module, "config_changes", lambda *_: {"intermediate_size": 88})
    with pytest.raises(ExportError, match=r"could not load the files|tensors missing or left over"):
        export_model(asked(finished, EVEN, "uniform", tmp_path / "out"), store, shelf, ignore_steps)
    assert left_in(tmp_path) == []


def test_a_disk_without_room_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    store, shelf, finished = run
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ExportError, match="are free where"):
        export_model(asked(finished, EVEN, "uniform", tmp_path / "out"), store, shelf, ignore_steps)
    assert left_in(tmp_path) == []


def test_a_folder_is_proven_again_wherever_it_lies_and_a_changed_file_is_named(run, tmp_path):
    store, shelf, finished = run
    made = export_model(asked(finished, EVEN, "uniform", tmp_path / "out"), store, shelf, ignore_steps)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    (moved / "README.md").write_text("My own words.")
    assert prove_export(made, moved, store, shelf, ignore_steps).holds
    (moved / "config.json").write_text("{}")
    with pytest.raises(ExportError, match=r"is not what was written: config\.json changed"):
        prove_export(made, moved, store, shelf, ignore_steps)


def test_the_recipe_is_enough_to_make_the_same_and_tells_no_folder_of_this_machine(run, tmp_path):
    store, shelf, finished = run
    made = export_model(asked(finished, BEST, "padded", tmp_path / "out"), store, shelf, ignore_steps)
    text = (tmp_path / "out" / "recipe.json").read_text()
    assert str(tmp_path.parent) not in text
    recipe, pruned = json.loads(text), store.get(Record, finished.sparse[BEST]).pruned
    assert recipe["widths"] == list(pruned.widths) == [len(kept) for kept in recipe["kept_channels"]]
    assert recipe["export"] == made.key
    assert recipe["base"]["identity"] == finished.model_identity
    # Half of what `best` was calibrated on are plain stories.
    assert recipe["calibration_identity"].startswith(f"{finished.corpora['calibration']}+0.5 of ")
    again = export_model(asked(finished, BEST, "padded", tmp_path / "two"), store, ModelShelf(), ignore_steps)
    assert again.files["model.safetensors"] == made.files["model.safetensors"]


def test_the_card_is_read_by_the_hub_s_own_class_and_says_what_was_lost(run, tmp_path):
    store, shelf, finished = run
    export_model(asked(finished, EVEN, "uniform", tmp_path / "out"), store, shelf, ignore_steps)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.tags == ["pruned", "width-pruning"]
    assert card.data.base_model is None, "a folder of somebody's own is no model of the hub"
    assert card.data.license == "unknown"
    for said in (
        "20 passages",
        "p\u00a0=\u00a0",
        "points",
        "Licence of the base | licence unknown",
        "Proven: transformers",
    ):
        assert said in card.text
    assert str(tmp_path.parent) not in str(card)


@pytest.mark.parametrize(
    ("reference", "public"),
    [
        ("/home/anna/models/tiny", "tiny"),
        ("file:/home/anna/texts/a.jsonl", "file:a.jsonl"),
        ("owner/name@main", "owner/name@main"),
        ("builtin:smollm2-135m", "builtin:smollm2-135m"),
    ],
)
def test_a_public_name_tells_no_folder(reference, public):
    assert public_name(reference) == public


def test_a_folder_of_the_data_folder_has_a_name_that_can_be_read():
    settings = replace(asked(type("Run", (), {"key": "r", "dense": "d", "sparse": ["s"]}), 0, "padded", "x"), to="")
    folder = settings.folder(Path("/data"), "owner/name@main", "retrain-free (published)", 125)
    assert folder.parent == Path("/data/exports")
    assert folder.name.startswith("owner-name-main-retrain-free-published-12.5pct-padded-float32-")
