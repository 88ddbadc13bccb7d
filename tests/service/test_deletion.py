"""What the data folder holds, each byte once, and deletion: what goes, what stays and why. No
worker is started.
"""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from filelock import FileLock

from sparsedash.schema import store_keys
from sparsedash.schema.errors import (
    AccessError,
    CorpusError,
    ExportError,
    SettingsError,
    StoreError,
)
from sparsedash.schema.export_settings import Export
from sparsedash.schema.find_settings import FindResult
from sparsedash.schema.pair_records import (
    Continuation,
    ContinuationSettings,
    Divergence,
    DivergenceSettings,
    Timing,
    TimingSettings,
    TokenDivergence,
)
from sparsedash.schema.records import (
    Healed,
    Passages,
    Record,
    Run,
    VerifySettings,
    about_artefact,
)
from sparsedash.schema.settings import CalibrationSettings
from sparsedash.schema.store_keys import healed_part
from sparsedash.schema.tolerance_settings import Tolerance
from sparsedash.schema.user_records import Choices, Prompts
from sparsedash.storage.model_folders import UNFINISHED_EXPORT, unpacked_models
from sparsedash.storage.users import UserData
from sparsedash.storage.verification import verify
from tests.service.made import SETTINGS, TIMING, finish, records, stored_run
from tests.storage.every_kind import (
    LARGE,
    fill,
    harm_entry,
    harm_file,
    take_away,
    unpack,
)
from tests.ui import specimens
from tests.ui.test_models_exports import ASKED

MODEL = specimens.run()[0].model_identity


@pytest.fixture
def keeper(backend):
    return backend.housekeeping


def delete_runs(backend, keys):
    return backend.housekeeping.delete_runs(keys)


def artefacts(backend):
    return {entry.name for entry in backend._store.entries("artefacts")}


def parts(items):
    return Counter(item.part for item in items)


def live(backend, settings=specimens.SETTINGS, key="other", kind="run"):
    """A waiting job of these settings."""
    return backend._table.submit(kind, key, asdict(settings))


def write_pair(backend, left, right, *others):
    """A continuation and a divergence of these records, as jobs leave them; the keys of both."""
    compared = DivergenceSettings(
        left=left,
        right=right,
        text="Once upon",
    )
    written = ContinuationSettings(
        left=left,
        right=right,
        prompt="Once",
        others=others,
    )
    for kind, settings in (("divergence", compared), ("continuation", written)):
        finish(backend, live(backend, settings, settings.key(), kind))
    places = (TokenDivergence(text="upon", nats=0.1, left="a", right="b"),)
    backend._store.put(
        compared.key(),
        Divergence(
            key=compared.key(),
            opening="Once",
            places=places,
        ),
    )
    backend._store.put(
        written.key(),
        Continuation(
            key=written.key(),
            prompt="Once",
            left="a",
            right="b",
        ),
    )
    return compared.key(), written.key()


def test_a_run_goes_with_all_that_only_it_uses(backend):
    run = stored_run(backend, "one")
    backend._store.put("one", replace(specimens.search()[2], key="one"))
    backend._store.put(
        "timing",
        replace(
            TIMING,
            dense=run.dense,
            sparse=run.sparse[0],
        ),
    )
    backend.user_data.name_run("one", "The first")
    backend.verdict_cache.verdicts([run], Tolerance())
    job = live(backend, key="one")
    backend.cancel(job.id)
    log = Path(backend._table.get(job.id).log_path)
    log.parent.mkdir(exist_ok=True)
    for name in (log.name, "99.log", "slot-0.log"):
        log.with_name(name).write_text("x")
    holdings = backend.housekeeping.holdings()
    plan = backend.housekeeping.plan_deletion(["one"])
    assert plan.n_bytes == holdings.run_bytes == holdings.runs[0].n_bytes
    deletion = delete_runs(backend, ["one", "example", "nowhere"])
    assert deletion.n_records == len({run.dense, *run.sparse})
    assert deletion.refused == {}
    assert backend.run("example") is not None
    assert not backend.housekeeping.plan_deletion(["example"]).runs
    for kind in (Run, FindResult, Record, Passages, Timing):
        assert list(backend._store.keys(kind)) == []
    assert backend.user_data.marks() == {}
    assert (
        backend._store.recall(store_keys.losses_note(run.dense, run.sparse[0])) is None
    )
    assert backend.runs() == [] and backend.run("one") is None
    assert {file.name for file in log.parent.glob("*.log")} == {"99.log", "slot-0.log"}


def test_healed_weights_stay_while_a_run_has_them_and_go_with_the_last_one(backend):
    done = Healed(
        steps=4,
        kept_step=4,
        before=0.2,
        after=0.1,
        n_tokens=60,
        weights="one",
    )
    settings = replace(specimens.SETTINGS, heal_steps=(4,))
    for name in ("one", "other"):
        run = stored_run(backend, name, settings=settings)
        record = backend._store.get(Record, run.sparse[0])
        backend._store.put(
            record.key, replace(record, pruned=replace(record.pruned, healed=done))
        )
    for name in (healed_part("one", "0"), healed_part("two", "0"), "refit/0"):
        backend._store.put_artefact(name, bytes(10**6), about_artefact("healed", MODEL))
    n_bytes = 10**6 + 32
    holdings = backend.housekeeping.holdings()
    assert max(run.n_bytes for run in holdings.runs) < n_bytes < holdings.run_bytes
    assert backend.housekeeping.empty_cache().n_bytes == 2 * n_bytes
    assert artefacts(backend) == {healed_part("one", "0")}
    assert delete_runs(backend, ["one"]).n_bytes < n_bytes
    assert artefacts(backend) == {healed_part("one", "0")}
    holdings = backend.housekeeping.holdings()
    plan = backend.housekeeping.plan_deletion(["other"])
    assert plan.n_bytes == holdings.runs[0].n_bytes == holdings.run_bytes > n_bytes
    delete_runs(backend, ["other"])
    assert artefacts(backend) == set()


def test_what_another_run_uses_stays_until_both_go_together(backend):
    one = stored_run(backend, "one")
    second = stored_run(backend, "other")
    assert delete_runs(backend, ["one"]).n_records == len(one.sparse)
    assert records(backend) == {second.dense, *second.sparse}
    assert len(list(backend._store.keys(Passages))) == 1
    assert [run.key for run in backend.runs()] == ["other"]


def test_comparisons_prompts_and_choices_go_with_their_models_whether_or_not_a_list_of_prompts_names_them(
    backend,
):
    one = stored_run(backend, "one")
    second = stored_run(backend, "other")
    gone = [
        *write_pair(backend, one.dense, one.sparse[0]),
        *write_pair(backend, "x", "y", one.sparse[1])[1:],
    ]
    compared, written = write_pair(backend, second.dense, second.sparse[0])
    prompt = ContinuationSettings(
        left=one.dense,
        right=one.sparse[0],
        prompt="Twice",
    )
    for settings in (prompt, replace(prompt, left="x", right="y")):
        backend.user_data.keep_prompt(settings)
        backend._store.put(
            settings.key(),
            Continuation(
                key=settings.key(),
                prompt="Twice",
                left="a",
                right="b",
            ),
        )
    backend.user_data.choose(one.dense, one.sparse[0], "3", one.sparse[0])
    assert backend.result(Divergence, gone[0]) and backend.result(Continuation, gone[1])
    delete_runs(backend, ["one"])
    assert compared in backend._store.keys(Divergence) and gone[
        0
    ] not in backend._store.keys(Divergence)
    assert list(backend._store.keys(Continuation)) == [written, settings.key()]
    assert backend.result(Divergence, gone[0]) is None, "nor is it cached in memory"
    assert len(list(backend._store.keys(Prompts))) == 1
    assert backend.user_data.choices(one.dense, one.sparse[0]) == {}


def test_what_its_models_wrote_goes_with_a_run_unless_another_asks_the_same(backend):
    one = stored_run(backend, "one")
    second = stored_run(backend, "other")
    for key in {**one.continuations, **second.continuations}:
        backend._store.put(
            key,
            Continuation(
                key=key,
                prompt="Once",
                left="a",
                right="a",
            ),
        )
    delete_runs(backend, ["one"])
    assert set(backend._store.keys(Continuation)) == set(second.continuations)


def test_a_run_stays_while_jobs_need_it(backend):
    run = stored_run(backend, "one")

    def refusal():
        assert records(backend) == {run.dense, *run.sparse}
        return delete_runs(backend, ["one"]).refused["one"]

    job = live(backend, key="one")
    assert "under way" in refusal()
    backend.cancel(job.id)
    second = live(backend)
    # A waiting run looks at the store when it starts.
    assert backend.housekeeping.plan_deletion(["one"]).refused == {}
    backend._table.claim(second.id, "slot-0", 1)
    assert "same model" in refusal()
    backend._table.end(backend._table.get(second.id), "done")
    for kind, settings in (
        ("timing", TimingSettings(dense=run.dense, sparse=run.sparse[0])),
        (
            "continuation",
            ContinuationSettings(
                left="x",
                right="y",
                prompt="Once",
                others=("z", run.sparse[-1]),
            ),
        ),
    ):
        job = live(backend, settings, settings.key(), kind)
        assert "uses its models" in refusal()
        backend.cancel(job.id)
    backend.user_data.pin_runs(["one"], True)
    assert "unpin it first" in refusal()
    backend.user_data.pin_runs(["one"], False)
    assert delete_runs(backend, ["one"]).refused == {}


def test_a_run_of_others_stays_and_a_shared_one_stays_theirs(house):
    ada = house.of("ada")
    bob = house.of("bob")
    job = house.done(ada)
    ada.user_data.name_run(job.key, "the first one")
    refused = delete_runs(bob, [job.key])
    assert (refused.runs, list(refused.refused)) == ((), [job.key])
    bob.submit(SETTINGS)
    shared = delete_runs(ada, [job.key])
    assert ([run.key for run in shared.runs], shared.n_records) == ([job.key], 0)
    assert ada.run(job.key) is None and bob.run(job.key) is not None
    bob.user_data.pin_runs([job.key], True)
    assert list(delete_runs(bob, [job.key]).refused) == [job.key], (
        "pins are each user's own"
    )
    bob.user_data.pin_runs([job.key], False)
    delete_runs(bob, [job.key])
    assert house.backend.runs() == [] and records(house.backend) == set()
    assert ada.user_data.marks() == {}


def test_an_administrator_deletes_whatever_there_is_and_alone_keeps_house(house):
    job = house.done(house.of("ada"))
    house.of("bob").submit(SETTINGS)
    delete_runs(house.of("root"), [job.key])
    assert house.backend.runs() == []
    assert house.backend._table.owners.of(job.key) == frozenset()
    unpack(house.backend._store, "tiny-0123")
    (model,) = house.of("root").housekeeping.holdings().files
    with pytest.raises(
        AccessError, match="Only an administrator looks into the data folder"
    ):
        house.of("ada").housekeeping.empty_cache()
    with pytest.raises(AccessError):
        house.of("ada").housekeeping.delete_file(model)
    with pytest.raises(AccessError):
        house.of("ada").submit(VerifySettings())
    assert (house.of("ada").administers, house.of("root").administers) == (False, True)
    assert house.of("root").submit(VerifySettings()).state == "queued"


def test_emptying_the_cache_takes_what_can_be_made_again_and_nothing_else(
    backend, keeper
):
    fill(backend._store)
    stored_run(backend, "one")
    killed = backend.data_dir / "exports" / f"{UNFINISHED_EXPORT}killed"
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(bytes(500))
    (killed / "lock").touch()
    harm_entry(backend._store, "records", "choices/chosen")
    assert backend._store.get(Choices, "chosen") is None
    before = keeper.holdings()
    counts = {
        "calibration": 2,
        "timings": 1,
        "exports": 1,
        "damaged": 1,
        "unfinished": 3,
    }
    assert parts(before.cache.items) == counts
    assert before.cache.artefact_bytes == len(LARGE) + len(b"few bytes") + 2 * 32
    entries = (*backend._store.entries("records"), *backend._store.entries("artefacts"))
    n_bytes = sum(part.n_bytes for part in (*entries, *before.files))
    assert before.n_bytes == n_bytes + 500, (
        "each byte once, and those of the killed export"
    )
    emptied = keeper.empty_cache()
    assert emptied == before.cache and emptied.spared == ()
    after = keeper.holdings()
    assert after.cache.items == after.cache.spared == () and artefacts(backend) == set()
    assert (after.runs, after.files) == (before.runs, before.files)
    assert not killed.exists() and len(list(backend._store.keys(Continuation))) == 1


def test_one_export_upload_or_model_is_deleted_at_a_time(backend, keeper):
    fill(backend._store)
    take_away(backend._store, backend.data_dir / "exports" / "other", "other")
    files = keeper.holdings().files
    assert [file.kind for file in files] == ["models", "exports", "exports", "uploads"]
    assert {file.title for file in files} >= {"tiny-0123", "taken", "other"}
    for n_left, file in enumerate(reversed(files)):
        keeper.delete_file(file)
        assert len(keeper.holdings().files) == len(files) - n_left - 1
    assert unpacked_models(backend._store) == [] and backend.exports.listed() == []


@pytest.mark.parametrize(
    ("what", "protects"),
    [
        ("known model", "mine"),
        ("timed model", "mine"),
        ("unknown model", ""),
        ("lost record", ""),
    ],
)
def test_a_job_protects_what_it_may_need_and_everything_where_its_model_is_not_known(
    backend, keeper, what, protects
):
    run = stored_run(backend, "one")
    for name, model in (("mine", MODEL), ("yours", "another")):
        backend._store.put_artefact(name, b"x", about_artefact("gradients", model))
    unpack(backend._store, "tiny-0123")
    if what == "known model":
        backend._store.remember(
            store_keys.model_identity_note(specimens.SETTINGS.model, ""), MODEL
        )
    if what.endswith("model") and what != "timed model":
        live(backend)
    else:
        timed = TimingSettings(
            dense=run.dense if protects else "gone", sparse=run.sparse[0]
        )
        live(backend, timed, timed.key(), "timing")
    cache = keeper.cache()
    assert [item.name for item in cache.items] == (["yours"] if protects else [])
    assert len(cache.spared) == (1 if protects else 2)
    (model,) = keeper.holdings().files
    if protects:
        keeper.delete_file(model)
    else:
        with pytest.raises(StoreError, match="job may need it"):
            keeper.delete_file(model)


def test_a_file_that_a_job_reads_or_writes_stays(backend, keeper):
    text = backend.uploads.keep("a.txt", b"Once upon a time.")
    calibration = CalibrationSettings(corpus=f"{text}[:9]")
    live(backend, replace(specimens.SETTINGS, calibration=calibration))
    take_away(backend._store, backend.data_dir / "exports" / "taken", "taken")
    live(backend, ASKED, "taken", "export")
    for file in keeper.holdings().files:
        with pytest.raises((CorpusError, ExportError)):
            keeper.delete_file(file)
    assert len(keeper.holdings().files) == 2


def test_folders_of_killed_exports_and_lost_records_go_and_those_elsewhere_stay(
    backend, keeper, tmp_path
):
    exports = backend.data_dir / "exports"
    elsewhere = take_away(backend._store, tmp_path / "elsewhere", "elsewhere")
    whole = take_away(backend._store, exports / "whole")
    lost = take_away(backend._store, exports / "lost", "lost")
    (lost / "recipe.json").write_text("{}")
    backend._store.drop(Export, "lost")
    living = exports / f"{UNFINISHED_EXPORT}living"
    living.mkdir()
    with FileLock(living / "lock"):
        emptied = keeper.empty_cache()
    assert set(exports.iterdir()) == {living, whole} and elsewhere.exists()
    assert emptied.n_bytes == len(LARGE) + 2
    assert [item.name for item in emptied.spared] == [living.name]
    assert [file.title for file in keeper.holdings().files] == ["whole"]


def test_a_lower_limit_of_artefacts_deletes_but_not_under_a_job_unless_the_environment_sets_it(
    backend, keeper, monkeypatch
):
    for number in range(3):
        backend._store.put_artefact(str(number), bytes(50_000_000))
    running = live(backend)
    for kept in ({"0", "1", "2"}, {"1", "2"}):
        keeper.allow(0.125)
        holdings = keeper.holdings()
        assert (artefacts(backend), holdings.room_bytes, holdings.room_fixed) == (
            kept,
            125_000_000,
            False,
        )
        backend.cancel(running.id)
    monkeypatch.setenv("SPARSEDASH_ARTEFACT_GB", "7")
    assert keeper.holdings().room_fixed and keeper.holdings().room_bytes == 7 * 10**9
    with pytest.raises(SettingsError, match="SPARSEDASH_ARTEFACT_GB"):
        keeper.allow(3.0)


def test_damage_that_verification_found_goes_with_the_cache_and_with_its_files(
    backend, keeper
):
    store = backend._store
    names = fill(store)
    for shelf, name in (("records", "timing/timing"), ("artefacts", "large")):
        harm_entry(store, shelf, name)
    for file in (
        names["export"][0],
        backend.data_dir / "models" / names["unpacked model"][0],
    ):
        harm_file(file)
    store.put(VerifySettings().key(), verify(store, lambda step: None))
    assert keeper.verification().n_damaged == 4
    live(backend)
    assert parts(keeper.empty_cache().items) == {"damaged": 2}
    assert {damage.kind for damage in keeper.verification().damaged} == {
        "unpacked model",
        "export",
    }
    backend.cancel(backend.jobs()[0].id)
    for file in keeper.holdings().files:
        keeper.delete_file(file)
    assert keeper.verification().n_damaged == 0
    assert verify(store, lambda step: None).damaged == ()


def test_an_empty_folder_holds_nothing(backend):
    holdings = backend.housekeeping.holdings()
    assert holdings.is_empty and holdings.run_bytes == 0
    assert holdings.free_bytes > 0 and holdings.n_bytes < 1000


def test_the_size_of_a_run_is_what_only_it_uses(backend):
    one = stored_run(backend, "one")
    _ = stored_run(backend, "other")
    bytes_of = {
        entry.name: entry.n_bytes for entry in backend._store.entries("records")
    }
    names = {"run/one", *(f"record/{key}" for key in one.sparse)}
    sizes = {
        holdings.run.key: holdings.n_bytes
        for holdings in backend.housekeeping.holdings().runs
    }
    assert sizes["one"] == sum(bytes_of[name] for name in names)


def test_an_administrator_s_cleanup_leaves_the_runs_that_others_have_pinned(
    backend, keeper
):
    stored_run(backend, "one"), stored_run(backend, "other")
    UserData(backend._store, "bob").pin_runs(["one"], True)
    delete_runs(backend, ["one", "other"])
    assert [run.key for run in backend.runs()] == ["one"]


def test_answers_of_a_run_that_was_lost_go_with_the_cache(backend, keeper):
    run = stored_run(backend, "one")
    assert keeper.cache().items == ()
    backend._store.drop(Run, run.key)
    job = backend.submit(SETTINGS)
    assert not keeper.cache().items, "it may be under way"
    backend.cancel(job.id)
    assert parts(keeper.empty_cache().items) == {"unfinished": len(run.records) + 1}
    assert records(backend) == set()
