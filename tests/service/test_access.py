"""Who may see, read, start, stop and delete what, where others are served. No worker is started."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from sparsedash.schema import store_keys
from sparsedash.schema.errors import AccessError, CorpusError, ExportError, JobError, SparseDashError, StoreError
from sparsedash.schema.export_settings import ExportSettings
from sparsedash.schema.pair_records import ContinuationSettings, DivergenceSettings, TimingSettings
from sparsedash.schema.records import Passages, Record, Run
from sparsedash.schema.settings import CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service import backend as backend_module
from sparsedash.service.backend import Backend
from sparsedash.service.own_things import OwnUploads
from sparsedash.service.user_files import Exports
from sparsedash.storage import text_files
from sparsedash.storage.text_files import Uploads
from sparsedash.storage.users import Quota, Serving
from tests.catalog.test_costs import SHAPE
from tests.service.test_backend import SETTINGS, record, run

TEXT = b'{"text": "Once upon a time there was a door."}\n'


@pytest.fixture(autouse=True)
def no_workers(monkeypatch):
    monkeypatch.setenv("SPARSEDASH_WORKERS", "0")


@pytest.fixture
def house(tmp_path):
    """A data folder, the rules under which it is served, and its visitors."""
    house = House(tmp_path)
    yield house
    house.backend.close()


class House:
    def __init__(self, folder):
        self.folder = folder
        self.allowed = folder / "allowed"
        self.allowed.mkdir()
        self.rules = Serving(
            address="https://sparsedash.example.org",
            login="oidc",
            administrators=("root",),
            folders=(str(self.allowed),),
            hub=("owner/*",),
            quota=Quota(uploads=2, upload_mb=1, queued=2, kept_gb=1),
        )
        self.backend = Backend(folder / "data")

    def of(self, name, **changes):
        return self.backend.seen_by(name, replace(self.rules, **changes))

    def done(self, backend, settings=SETTINGS):
        """A run that this visitor asked for, and that a worker has done."""
        job = backend.submit(settings)
        if job.state == "done":
            return job
        claimed = self.backend._table.claim(job.id, "slot-0", 1)
        dense, sparse = f"dense-{settings.dtype}", f"sparse-{settings.dtype}"
        for key in (dense, sparse):
            texts = f"texts-{settings.dtype}"
            self.backend._store.put(key, replace(record(key), passages_key=texts))
        self.backend._store.put(texts, Passages(key=texts, indices=(0,), contexts=("Once",), targets=("upon",)))
        self.backend._store.put(job.key, replace(run(settings, key=job.key), dense=dense, sparse=(sparse,)))
        self.backend._table.finish(claimed)
        return self.backend.job(job.id)


def seen(backend, job):
    """Which parts of a finished run this visitor sees, by name."""
    parts = {
        "run": backend.run(job.key),
        "runs": backend.runs(),
        "job": backend.newest_job(job.key),
        "jobs": backend.jobs(),
        "dense": backend.record("dense-float32"),
        "sparse": backend.record("sparse-float32"),
        "texts": backend.passages("texts-float32"),
    }
    return {name for name, found in parts.items() if found}


EVERYTHING = {"run", "runs", "job", "jobs", "dense", "sparse", "texts"}


@pytest.mark.parametrize(
    ("name", "see_each_other", "what"),
    [("ada", False, EVERYTHING), ("bob", False, set()), ("root", False, EVERYTHING), ("bob", True, EVERYTHING)],
)
def test_a_run_is_seen_by_who_asked_for_it_by_administrators_and_where_all_see_all(house, name, see_each_other, what):
    job = house.done(house.of("ada"))
    assert seen(house.of(name, see_each_other=see_each_other), job) == what


def test_a_job_of_another_is_as_if_there_were_none(house):
    job = house.of("ada").submit(SETTINGS)
    bob = house.of("bob")
    for look in (bob.job, bob.cancel, bob.retry, bob.log_tail):
        with pytest.raises(JobError, match="There is no job 1"):
            look(job.id)
    with pytest.raises(JobError, match="There is no job 1"):
        bob.move(job.id, "down")
    assert bob.queue() == bob.jobs() == ()
    assert house.of("ada").queue_position(job.id) == 1


def test_who_asks_for_the_same_shares_the_job_and_the_result_but_not_the_right_to_stop_it(house):
    ada, bob = house.of("ada"), house.of("bob")
    job = ada.submit(SETTINGS)
    assert bob.submit(SETTINGS).id == job.id
    assert bob.job(job.id).owner == "ada"
    with pytest.raises(AccessError, match="somebody else"):
        bob.cancel(job.id)
    assert ada.cancel(job.id).state == "cancelled"
    assert bob.retry(job.id).owner == "bob"
    assert house.of("root").cancel(job.id).state == "cancelled"


def test_a_result_that_is_there_is_given_to_who_asks_and_is_theirs_then(house):
    job = house.done(house.of("ada"))
    bob = house.of("bob")
    assert bob.submit(SETTINGS).state == "done"
    assert seen(bob, job) == EVERYTHING


def test_nobody_but_an_administrator_puts_a_job_before_those_of_others(house):
    ada = house.of("ada")
    first = ada.submit(SETTINGS)
    second = ada.submit(replace(SETTINGS, dtype="bfloat16"))
    for act in (lambda: ada.move(second.id, "front"), lambda: ada.prioritise(second.id, "high")):
        with pytest.raises(AccessError, match="administrator"):
            act()
    assert ada.prioritise(first.id, "low").priority == "low"
    assert house.of("root").prioritise(first.id, "high").priority == "high"


PAIRS = {
    "continuation": ContinuationSettings(left="dense-float32", right="sparse-float32", prompt="Once"),
    "divergence": DivergenceSettings(left="dense-float32", right="sparse-float32", text="Once"),
    "timing": TimingSettings(dense="dense-float32", sparse="sparse-float32"),
    "export": ExportSettings(dense="dense-float32", sparse="sparse-float32", form="masked"),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_models_of_another_s_run_are_nobody_else_s_to_run(house, kind):
    ada, bob = house.of("ada"), house.of("bob")
    house.done(ada)
    with pytest.raises(AccessError, match="no such run of yours"):
        getattr(bob, f"submit_{kind}")(PAIRS[kind])
    assert getattr(ada, f"submit_{kind}")(PAIRS[kind]).owner == "ada"


def test_an_export_names_no_run_of_somebody_else(house):
    ada, bob = house.of("ada"), house.of("bob")
    asked = replace(PAIRS["export"], run=house.done(ada).key)
    house.done(bob, replace(SETTINGS, sparsities_permille=(400,)))
    with pytest.raises(AccessError, match="no such run of yours"):
        bob.submit_export(asked)
    assert ada.submit_export(asked).owner == "ada"


def problem(backend, field, reference):
    found = backend.reference_problem(field, reference)
    return found.message if found else ""


def model_in(folder, family="llama"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(f'{{"model_type": "{family}"}}')
    return folder


def test_local_models_are_read_below_the_listed_folders_alone(house):
    ada = house.of("ada")
    inside, outside = model_in(house.allowed / "model"), model_in(house.folder / "elsewhere")
    (house.allowed / "link").symlink_to(outside)
    assert problem(ada, "model", str(inside)) == ""
    refused = (outside, house.allowed / "link", house.allowed / ".." / "elsewhere", "/etc", "/nowhere", "~root", "docs")
    for path in refused:
        assert "only below" in problem(ada, "model", str(path)), path
        assert ada.named_model(str(path)) is None
        with pytest.raises(AccessError, match="only below"):
            ada.submit(replace(SETTINGS, model=str(path)))
    assert "only below" in problem(house.of("root"), "model", str(outside)), "an administrator is held to the list too"


def test_files_of_text_are_read_below_the_listed_folders_alone(house):
    ada = house.of("ada")
    inside, outside = house.allowed / "text.jsonl", house.folder / "text.jsonl"
    for path in (inside, outside):
        path.write_bytes(TEXT)
    (house.allowed / "link.jsonl").symlink_to(outside)
    assert problem(ada, "evaluation text", f"file:{inside}[:3]") == ""
    for path in (
        "/etc/passwd",
        outside,
        house.allowed / "link.jsonl",
        f"{house.allowed}/../text.jsonl",
        "/nothing.txt",
    ):
        for reference in (f"file:{path}", f"file:{path}[0:1]"):
            assert "only below" in problem(ada, "evaluation text", reference), reference
            for changed in (
                replace(SETTINGS, evaluation=EvaluationSettings(corpus=reference)),
                replace(SETTINGS, calibration=CalibrationSettings(corpus=reference)),
            ):
                with pytest.raises(AccessError, match="only below"):
                    ada.submit(changed)
                assert [each.message for each in ada.preflight(changed).problems if "only below" in each.message]
    assert house.backend.jobs() == ()


def test_a_refusal_says_the_same_whether_or_not_there_is_such_a_file(house):
    ada = house.of("ada")
    said = {problem(ada, "evaluation text", f"file:{path}") for path in ("/etc/passwd", "/etc/nothing.txt")}
    assert len(said) == 1


def test_without_folders_nothing_local_is_read_and_the_built_in_model_is(house):
    ada = house.of("ada", folders=())
    assert "no file on this machine" in problem(ada, "model", str(model_in(house.allowed / "model")))
    assert problem(ada, "model", "builtin:smollm2-135m") == ""


def test_models_of_the_hub_are_those_on_the_list(house):
    ada = house.of("ada")
    assert problem(ada, "model", "owner/model@main") == ""
    assert "not among those offered" in problem(ada, "model", "other/model")
    assert problem(house.of("ada", hub=None), "model", "other/model") == ""


def test_the_hub_is_asked_for_models_on_the_list_and_with_the_token_for_administrators(house, monkeypatch):
    asked = []
    monkeypatch.setattr(backend_module, "fetch_config", lambda reference, **how: asked.append((reference, how)))
    with pytest.raises(AccessError, match="not among those offered"):
        house.of("ada").fetch_config("other/model")
    house.of("ada").fetch_config("owner/model")
    house.of("root").fetch_config("owner/model")
    assert asked == [("owner/model", {"with_token": False}), ("owner/model", {"with_token": True})]


def test_an_export_goes_where_an_administrator_says_and_below_the_folders_then(house):
    house.done(house.of("ada"))
    asked = PAIRS["export"]
    with pytest.raises(AccessError, match="administrator"):
        house.of("ada").submit_export(replace(asked, to=str(house.allowed / "x")))
    root = house.of("root")
    with pytest.raises(AccessError, match="only below"):
        root.submit_export(replace(asked, to="/tmp/x"))
    assert root.submit_export(replace(asked, to=str(house.allowed / "x"))).state == "queued"
    with pytest.raises(AccessError, match="only below"):
        root.submit_export(replace(asked, form="gguf", dense_gguf="/etc/hostname"))


def test_an_upload_is_who_brought_it_s(house):
    ada, bob = house.of("ada"), house.of("bob")
    reference = ada.uploads.keep("mine.jsonl", TEXT)
    assert list(ada.uploads.kept()) == [reference]
    assert bob.uploads.kept() == {}
    assert "no such upload of yours" in problem(bob, "evaluation text", f"{reference}[:1]")
    assert problem(ada, "evaluation text", f"{reference}[:1]") == ""
    with pytest.raises(CorpusError, match="no upload"):
        bob.drop_upload(reference)
    with pytest.raises(AccessError):
        bob.submit(replace(SETTINGS, evaluation=EvaluationSettings(corpus=reference)))
    assert list(house.of("root").uploads.kept()) == [reference]


def test_what_two_have_brought_alike_stays_the_other_s(house):
    ada, bob = house.of("ada"), house.of("bob")
    reference = ada.uploads.keep("same.jsonl", TEXT)
    assert bob.uploads.keep("same.jsonl", TEXT) == reference
    ada.drop_upload(reference)
    assert ada.uploads.kept() == {}
    assert list(bob.uploads.kept()) == [reference]
    bob.drop_upload(reference)
    assert house.backend.uploads.kept() == {}


def test_uploads_are_held_to_their_number_and_their_size(house):
    ada = house.of("ada")
    with pytest.raises(CorpusError, match="1 MB together"):
        ada.uploads.keep("large.txt", b"words " * 200_000)
    ada.uploads.keep("a.jsonl", TEXT)
    ada.uploads.keep("b.jsonl", TEXT + TEXT)
    with pytest.raises(CorpusError, match="2 uploads"):
        ada.uploads.keep("c.jsonl", TEXT * 3)
    house.of("bob").uploads.keep("c.jsonl", TEXT * 3)
    for name in ("d", "e", "f"):
        house.of("root").uploads.keep(f"{name}.jsonl", TEXT * ord(name))


EXPORTS = [replace(PAIRS["export"], weights=weights) for weights in ("float32", "bfloat16", "float16")]


def of_size(house, n_parameters):
    """Have the models of ada's run that many weights; gives her backend."""
    ada = house.of("ada")
    house.done(ada)
    shape = replace(SHAPE, n_parameters=n_parameters)
    house.backend._store.remember(
        store_keys.model_shape_note(ada.record("dense-float32").model_identity), shape.plain()
    )
    return ada


def test_exports_that_wait_count_with_what_they_will_take(house):
    ada = of_size(house, 150_000_000)
    job = ada.submit_export(EXPORTS[0])
    assert ada.submit_export(EXPORTS[0]).id == job.id, "it counts once"
    ada.submit_export(EXPORTS[1])
    with pytest.raises(AccessError, match="1 GB together"):
        ada.submit_export(EXPORTS[2])
    with pytest.raises(CorpusError, match="kept for you may have 0 GB"):
        house.of("ada", quota=Quota(kept_gb=0)).uploads.keep("a.jsonl", TEXT)
    ada.cancel(job.id)
    ada.submit_export(EXPORTS[2])
    with pytest.raises(AccessError, match="1 GB together"):
        ada.retry(job.id)


def attempt(act):
    try:
        return act()
    except SparseDashError as error:
        return error


@pytest.mark.parametrize("what", ["uploads", "exports", "all uploads"])
def test_two_servers_of_one_folder_do_not_both_give_the_last_place(house, monkeypatch, what):
    of_size(house, 150_000_000)
    other, both = Backend(house.folder / "data"), threading.Barrier(2)
    servers = [house.backend, other]
    if what != "all uploads":
        servers = [each.seen_by("ada", replace(house.rules, quota=Quota(uploads=2, kept_gb=1))) for each in servers]
    if what == "exports":
        servers[0].submit_export(EXPORTS[0])
        acts = [lambda s=server, e=each: s.submit_export(e) for server, each in zip(servers, EXPORTS[1:], strict=True)]
    else:
        servers[0].uploads.keep("first.jsonl", TEXT)
        acts = [lambda s=server, n=n: s.uploads.keep(f"{n}.jsonl", TEXT) for n, server in enumerate(servers)]
    if what == "all uploads":
        monkeypatch.setattr(text_files, "MAX_TOTAL_BYTES", 2 * len(TEXT))

    def look(self, looked=Exports.listed if what == "exports" else Uploads.kept):
        found = looked(self)
        # Both have looked before either goes on, unless one has to wait for the other.
        with suppress(threading.BrokenBarrierError):
            both.wait(0.2)
        return found

    monkeypatch.setattr(*((Exports, "listed") if what == "exports" else (Uploads, "kept")), look)
    with ThreadPoolExecutor(2) as at_once:
        ends = list(at_once.map(attempt, acts))
    other.close()
    assert sum(isinstance(end, SparseDashError) for end in ends) == 1, ends


def test_jobs_that_wait_or_run_are_held_to_their_number(house):
    ada = house.of("ada")
    for dtype in ("float32", "bfloat16"):
        ada.submit(replace(SETTINGS, dtype=dtype))
    with pytest.raises(JobError, match="You have 2 jobs"):
        ada.submit(replace(SETTINGS, sparsities_permille=(200,)))
    for permille in (200, 300, 400):
        house.of("root").submit(replace(SETTINGS, sparsities_permille=(permille,)))


def test_prompts_choices_and_names_are_their_owner_s(house):
    ada, bob = house.of("ada"), house.of("bob")
    job = house.done(ada)
    assert bob.submit(SETTINGS).id == job.id
    prompt = PAIRS["continuation"]
    ada.user_data.keep_prompt(prompt)
    ada.user_data.choose("dense-float32", "sparse-float32", "passage 1", "dense-float32")
    ada.user_data.name_run(job.key, "the first one")
    assert ada.user_data.prompts(prompt.left, prompt.right) == (prompt,)
    for other in (bob, house.backend):
        assert other.user_data.prompts(prompt.left, prompt.right) == ()
        assert other.user_data.choices("dense-float32", "sparse-float32") == {}
        assert other.user_data.name_of(job.key) == ""


def test_a_run_that_is_mine_alone_goes_with_all_that_is_its_own(house):
    ada = house.of("ada")
    job = house.done(ada)
    ada.user_data.name_run(job.key, "the first one")
    assert [each.key for each in ada.removal.remove([job.key]).runs] == [job.key]
    assert house.backend.runs() == []
    assert house.backend._store.get(Record, "dense-float32") is None
    assert ada.user_data.marks() == {}


def test_a_run_of_another_stays_and_a_shared_one_stays_theirs(house):
    ada, bob = house.of("ada"), house.of("bob")
    job = house.done(ada)
    refused = bob.removal.remove([job.key])
    assert (refused.runs, list(refused.refused)) == ((), [job.key])
    bob.submit(SETTINGS)
    assert [each.key for each in ada.removal.remove([job.key]).runs] == [job.key]
    assert seen(ada, job) - {"job", "jobs"} == set()
    assert seen(bob, job) == EVERYTHING
    assert house.backend._store.get(Run, job.key) is not None


def test_an_administrator_deletes_whatever_there_is(house):
    job = house.done(house.of("ada"))
    house.of("bob").submit(SETTINGS)
    house.of("root").removal.remove([job.key])
    assert house.backend.runs() == []
    assert house.backend._table.owners.of(job.key) == frozenset()


def test_an_export_of_another_is_neither_seen_nor_deleted(house):
    bob = house.of("bob")
    house.backend._table.owners.add("an export", "ada")
    assert bob.exports.listed() == []
    with pytest.raises(ExportError, match="somebody else"):
        bob.exports.drop("an export")


def test_whoever_sits_in_front_of_the_machine_may_do_everything(house):
    job = house.done(house.of("ada"))
    assert seen(house.backend, job) == EVERYTHING
    assert problem(house.backend, "model", str(model_in(house.folder / "elsewhere"))) == ""
    assert not isinstance(house.backend.uploads, OwnUploads)
    assert house.backend.submit(RunSettings(model="other/model")).owner == ""


def test_what_was_made_before_others_were_served_is_an_administrator_s(house):
    job = house.done(house.backend)
    assert seen(house.of("bob"), job) == set()
    assert seen(house.of("root"), job) == EVERYTHING


def test_the_data_folder_is_for_administrators(house):
    ada, root = house.of("ada"), house.of("root")
    assert not ada.keeps_house
    with pytest.raises(AccessError, match="Only an administrator looks into the data folder"):
        ada.housekeeping.remove_kind("logs")
    with pytest.raises(AccessError):
        ada.submit_verification()
    assert root.housekeeping.holdings() is not None
    assert root.submit_verification().state == "queued"


def test_a_run_is_taken_along_by_who_sees_it_and_brought_in_by_administrators(house):
    ada, bob = house.of("ada"), house.of("bob")
    house.done(ada)
    key = ada.runs()[0].key
    with pytest.raises(JobError):
        bob.transfer.packed(key)
    with pytest.raises(StoreError):
        # What is made up here is no run that can be taken along; it is asked, other than for bob.
        ada.transfer.packed(key)
    with pytest.raises(AccessError, match="Only an administrator opens files of runs"):
        bob.transfer.opened(b"any")
    with pytest.raises(StoreError):
        house.of("root").transfer.opened(b"any")


def test_the_machines_of_a_cluster_are_for_administrators(house, monkeypatch):
    monkeypatch.setattr(house.backend, "_cluster", Machines())
    assert house.of("ada").cluster() is None
    assert house.of("root").cluster() == "the view"


class Machines:
    def view(self):
        return "the view"

    def let_go(self):
        pass


UNASKED = {
    "close",
    "expect_work",
    "forecast",
    "expected_seconds",
    "is_measuring",
    "left_alone",
    "model_shape",
    "reconcile",
    "worker_trouble",
}
"""What says or does nothing of anybody's: how long stages take, the sizes of a model, that jobs are looked after."""

ASKED = {
    *(
        "cached",
        "cancel",
        "fetch_config",
        "continuation",
        "damaged_runs",
        "divergence",
        "drop_upload",
        "example",
        "health",
        "job",
        "jobs",
        "log_tail",
    ),
    *(
        "move",
        "named_model",
        "newest_job",
        "orders_queue",
        "passages",
        "preflight",
        "prioritise",
        "queue",
        "queue_position",
        "record",
    ),
    *("reference_problem", "retry", "run", "runs", "search", "seen_by", "submit", "submit_continuation"),
    *("cluster", "housekeeping", "keeps_house", "submit_verification"),
    *("submit_divergence", "submit_export", "submit_timing", "timing", "why_missing"),
}


def test_every_verb_of_the_backend_has_been_thought_of():
    verbs = {name for name in vars(Backend) if not name.startswith("_")}
    assert verbs == UNASKED | ASKED, "a new verb: does it ask Access? Then name it here"
