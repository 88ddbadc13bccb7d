"""The export of a sparse model: its files, that a fresh process proves them, and what is
refused.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sparsedash.engine.export import export as module
from sparsedash.engine.export.export import prove_export
from sparsedash.engine.models.loading import ModelCache
from sparsedash.engine.run import pipeline
from sparsedash.schema.errors import Cancelled, ExportError, JobError
from sparsedash.schema.export_settings import Export
from sparsedash.schema.progress import ignore_steps
from sparsedash.schema.records import Record
from sparsedash.schema.settings import CalibrationSettings
from sparsedash.storage.model_folders import unfinished_exports
from sparsedash.storage.store import Store
from tests.engine.export.conftest import export_request, exported, run_in, run_settings
from tests.engine.tiny import save_tiny
from tests.factories import PROOF
from tests.service.made import exports_of

BEST = 0
EVEN = 1
MASKS = 2


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("number", "form"), [(EVEN, "uniform"), (BEST, "padded"), (MASKS, "masked")]
)
def test_the_folder_holds_all_that_is_needed_and_is_proven(
    number, form, run, model_folder, tmp_path
):
    export = exported(run, number, form, tmp_path / "out")
    out = tmp_path / "out"
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "recipe.json",
        "README.md",
    } <= set(left_in(out))
    assert left_in(tmp_path) == ["out"]
    assert (out / "tokenizer.json").read_bytes() == (
        model_folder / "tokenizer.json"
    ).read_bytes()
    assert export.proof.holds and export.proof.logit_difference <= 1e-4
    assert (export.proof.n_logits, export.proof.n_verdicts, export.proof.n_run) == (
        16,
        20,
        20,
    )
    assert run[0].get(Export, export.key) == export == exported(run, number, form, out)
    assert export.n_bytes == sum(path.stat().st_size for path in out.iterdir())
    # Zeros take as much room as any weight.
    assert (export.n_bytes == export.base_bytes) == (form == "masked")
    before, after = (
        json.loads((folder / "config.json").read_text())
        for folder in (model_folder, out)
    )
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == ({"intermediate_size"} if form != "masked" else set())
    if form == "uniform":
        assert (
            after["intermediate_size"]
            == run[0].get(Record, run[2].sparse[EVEN]).pruned.widths[0]
        )


def test_a_fresh_process_proves_a_folder_wherever_it_lies_and_a_changed_file_is_named(
    fresh_process, run, tmp_path, monkeypatch
):
    with monkeypatch.context() as unproven:
        unproven.setattr(module, "prove_files", lambda *_: PROOF)
        export = exported(run, EVEN, "uniform", tmp_path / "out")
    store, model_cache, _ = run
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    (moved / "README.md").write_text("My own words.")
    proof = prove_export(
        export,
        moved,
        store,
        model_cache,
        ignore_steps,
    )
    assert proof.holds and proof.n_run == 20
    (moved / "config.json").write_text("{}")
    with pytest.raises(
        ExportError, match=r"is not as exported: changed or new: config\.json\."
    ):
        prove_export(
            export,
            moved,
            store,
            model_cache,
            ignore_steps,
        )


def test_the_licence_is_copied_every_file_has_its_sum_and_the_mode_is_that_of_the_umask(
    tmp_path_factory, tmp_path, finished_run
):
    base = save_tiny(tmp_path_factory.mktemp("licensed") / "tiny")
    kept = (
        "LICENSE",
        "NOTICE.md",
        "License.txt",
        "tokenizer.model",
        "chat_template.jinja",
    )
    for name in kept:
        (base / name).write_text(name)
    for name in ("modeling.py", "tokenizer.py"):
        (base / name).write_text("raise SystemExit")
    before = os.umask(0o027)
    out = tmp_path / "out"
    try:
        export = exported(finished_run(base, ("magnitude",)), 0, "uniform", out)
    finally:
        os.umask(before)
    assert all((out / name).read_text() == name for name in kept)
    assert not list(out.glob("*.py"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o640}
    sums = json.loads((out / "recipe.json").read_text())["sha256"]
    assert sums.keys() == set(left_in(out)) - {"recipe.json", "README.md"}
    for name, digest in sums.items():
        assert (
            hashlib.sha256((out / name).read_bytes()).hexdigest()
            == digest
            == export.files[name]
        )


def test_weights_of_another_type_are_stated_as_such_and_proven_as_rounded(
    run, tmp_path
):
    export = exported(
        run,
        BEST,
        "padded",
        tmp_path / "out",
        weights="bfloat16",
    )
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["dtype"]
        == "bfloat16"
    )
    assert {
        t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()
    } == {torch.bfloat16}
    assert export.proof.n_meant == export.proof.n_verdicts
    assert export.proof.logit_difference <= 1e-4
    again = exported(run, BEST, "padded", tmp_path / "two")
    assert again.proof.n_run == again.proof.n_verdicts, (
        "rounding in memory must not reach the next export"
    )


@pytest.fixture(scope="session")
def narrow_model(tmp_path_factory):
    """Gemma, whose code rounds a factor of its own to the type that it is loaded in."""
    return save_tiny(tmp_path_factory.mktemp("narrow") / "tiny", "gemma3_text")


@pytest.mark.parametrize(
    ("number", "form", "weights"),
    [
        (BEST, "padded", "bfloat16"),
        (MASKS, "masked", "bfloat16"),
        (BEST, "masked", "float16"),
    ],
)
def test_a_bfloat16_run_is_proven_by_what_its_files_hold(
    number, form, weights, narrow_model, finished_run, tmp_path
):
    proof = exported(
        finished_run(narrow_model, dtype="bfloat16"),
        number,
        form,
        tmp_path / "out",
        weights=weights,
    ).proof
    assert proof.logit_difference <= 1e-4 < proof.logit_allowed == 1e-3
    assert proof.n_meant == proof.n_verdicts
    assert not proof.strict and proof.n_run >= 18


@pytest.mark.parametrize(
    ("number", "form", "why"),
    [
        (BEST, "uniform", "its blocks have different widths"),
        (MASKS, "padded", "no channel was removed"),
        (MASKS, "gguf", "no channel was removed"),
    ],
)
def test_a_form_that_does_not_apply_is_refused_with_the_reason(
    number, form, why, run, tmp_path
):
    with pytest.raises(ExportError, match=why):
        exported(run, number, form, tmp_path / "out")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
def test_a_bias_that_stock_code_or_llama_cpp_has_no_place_for_is_refused_at_once(
    finished_run, tmp_path, family, monkeypatch
):
    finished = finished_run(save_tiny(tmp_path / "tiny", family), ("flap",))
    monkeypatch.setattr(
        module, "rebuild_model", lambda *_: pytest.fail("nothing is made")
    )
    for form, why in (
        ("padded", "its stock code has"),
        ("gguf", f"llama.cpp's graph of {family} has"),
    ):
        with pytest.raises(ExportError, match=f"bias.*for which {why} no place"):
            exported(finished, 0, form, tmp_path / "out")


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_what_exists_is_never_written_into(there, run, tmp_path):
    out = tmp_path / "out"
    if there == "folder":
        exported(run, EVEN, "uniform", out)
        [path.unlink() for path in out.iterdir()]
        (out / "changed").touch()
    else:
        {"file": out.touch, "link": lambda: out.symlink_to("nowhere")}[there]()
    with pytest.raises(ExportError, match="already exists"):
        exported(run, EVEN, "uniform", out)
    assert left_in(tmp_path) == ["out"]
    assert there != "folder" or left_in(out) == ["changed"]


def killed(*_, **__):
    raise KeyboardInterrupt


def test_a_kill_between_the_record_and_the_name_leaves_nothing_that_is_listed(
    run, tmp_path, monkeypatch
):
    store, _, finished = run
    request = export_request(finished, EVEN, "uniform", tmp_path / "out")
    with monkeypatch.context() as changed, pytest.raises(KeyboardInterrupt):
        changed.setattr(os, "rename", killed)
        exported(run, EVEN, "uniform", tmp_path / "out")
    assert store.get(Export, request.key()) is not None
    assert not exports_of(store).is_whole(request.key())
    assert (
        exported(run, EVEN, "uniform", tmp_path / "out") in exports_of(store).listed()
    )


def test_a_data_folder_that_was_moved_finds_its_exports(
    passage_file, model_folder, tmp_path
):
    store = Store(tmp_path / "here")
    model_cache = ModelCache()
    run = pipeline.run(
        run_settings(model_folder, passage_file, ("magnitude",)),
        store,
        model_cache=model_cache,
    )
    export = exported((store, model_cache, run), 0, "uniform", "")
    assert re.fullmatch(
        r".*/here/exports/[\w.-]+-40pct-uniform-float32-[\w.-]{6}", export.folder
    )
    store.close()
    moved = Store((tmp_path / "here").rename(tmp_path / "there"))
    try:
        (listed,) = exports_of(moved).listed()
        assert listed == replace(
            export, folder=export.folder.replace("/here/", "/there/")
        )
        assert exports_of(moved).may_delete(listed)
        assert exported((moved, model_cache, run), 0, "uniform", "") == listed, (
            "it is found, and not made again"
        )
    finally:
        moved.close()


def test_after_a_kill_the_next_attempt_finds_nothing_left(run, tmp_path, monkeypatch):
    with monkeypatch.context() as changed, pytest.raises(KeyboardInterrupt):
        # A killed process deletes nothing.
        changed.setattr("shutil.rmtree", lambda path, **_: None)
        changed.setattr(module, "write_folder", killed)
        exported(run, EVEN, "uniform", tmp_path / "out")
    assert len(unfinished_exports(tmp_path)) == 1
    exported(run, EVEN, "uniform", tmp_path / "out")
    assert left_in(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("changed", "message"), [("model", "/tiny "), ("text", "calibration text ")]
)
def test_what_a_result_was_computed_from_must_not_have_changed_since(
    changed, message, passage_file, store, tmp_path
):
    base = save_tiny(tmp_path / "tiny")
    text = shutil.copy(passage_file, tmp_path / "read.jsonl")
    calibration = CalibrationSettings(corpus=f"file:{text}", n_samples=16, length=48)
    settings = run_settings(base, passage_file, ("least-squares",))
    finished = run_in(store, replace(settings, calibration=calibration))
    if changed == "model":
        save_tiny(base, seed=7)
    else:
        text.write_text("".join(reversed(text.read_text().splitlines(keepends=True))))
    with pytest.raises(
        JobError, match=f"{message}has changed since this result was computed"
    ):
        exported((store, ModelCache(), finished[2]), 0, "padded", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_that_the_config_denies_is_said_and_a_link_out_of_the_folder_is_refused(
    passage_file, store, tmp_path
):
    base = save_tiny(tmp_path / "tiny", tie_word_embeddings=False)
    secret = tmp_path / "secret"
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(
        json.dumps(config | {"tie_word_embeddings": True})
    )
    secret.write_text("not for others")
    (base / "LICENSE").symlink_to(secret)
    (base / "NOTICE").write_text("for all")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    run = run_in(store, run_settings(base, passage_file, ("magnitude",)))
    out = tmp_path / "out"
    with pytest.raises(
        ExportError, match="LICENSE is a link out of the model's folder"
    ):
        exported(run, 0, "padded", out)
    assert not out.exists()
    (base / "LICENSE").unlink()
    export = exported(run, 0, "padded", out)
    assert export.proof.holds and (out / "NOTICE").is_file()
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert "additional_chat_templates/tool_use.jinja" in export.files
    (out / "additional_chat_templates" / "more.py").touch()
    with pytest.raises(
        ExportError, match=r"changed or new: additional_chat_templates/more\.py"
    ):
        module.prove_export(
            export,
            out,
            store,
            ModelCache(),
            ignore_steps,
        )


def test_files_of_another_model_are_deleted_and_the_difference_is_named(
    run, tmp_path, monkeypatch
):
    write = module.write_folder

    def one_weight_off(folder, *rest, **changes):
        written = write(folder, *rest, **changes)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.layers.1.mlp.down_proj.weight"][0] += 1
        save_file(
            tensors,
            folder / "model.safetensors",
            metadata={"format": "pt"},
        )
        return written

    monkeypatch.setattr(module, "write_folder", one_weight_off)
    with pytest.raises(
        ExportError,
        match=r"are not the sparse model: logits differ by up to [0-9.]+ \(0\.001",
    ) as refused:
        exported(run, EVEN, "uniform", tmp_path / "out")
    assert left_in(tmp_path) == []
    assert "the run and its results are kept. Try another form" in refused.value.advice
    assert run[0].get(Record, run[2].sparse[EVEN]) is not None


def stop_the_proof(step):
    if step.stage == "prove" and step.done == 1:
        raise Cancelled


@pytest.mark.parametrize(
    ("changed", "value", "on_step", "error", "words"),
    [
        (
            "shutil.disk_usage",
            lambda _: type("Usage", (), {"free": 1000}),
            ignore_steps,
            ExportError,
            "are free for",
        ),
        (
            "sys.executable",
            "/bin/false",
            ignore_steps,
            ExportError,
            "not load the files: exit code 1: no output",
        ),
        ("sys.executable", sys.executable, stop_the_proof, Cancelled, None),
    ],
    ids=["a disk without room", "files that cannot be loaded", "a cancelled proof"],
)
def test_what_fails_leaves_nothing(
    fresh_process, run, tmp_path, monkeypatch, changed, value, on_step, error, words
):
    monkeypatch.setattr(changed, value)
    with pytest.raises(error, match=words):
        exported(
            run,
            EVEN,
            "uniform",
            tmp_path / "out",
            on_step,
        )
    assert left_in(tmp_path) == []
