"""The storage page in its empty, full, verifying, failed and damaged state, and the questions before it deletes."""

from dataclasses import replace

import pytest

from sparsedash.reporting import storage_words as held_words
from sparsedash.schema.pair_records import RunMark
from sparsedash.schema.records import Damage, Verification, VerifySettings
from sparsedash.service.deletion import ArtefactRoom, Cleanup, Item, Removal, Selection, Staying
from sparsedash.service.holdings import Holding, Holdings, ModelHolding, RunHolding
from sparsedash.ui.storage_holdings import RUNS_A_PAGE
from tests.ui import specimens
from tests.ui.conftest import FAILED, HOSTILE, button, links, markup, query_of, shows_as_text, words
from tests.ui.fake_backend import job

RUN = specimens.run()[0]
KINDS = {
    "runs": Holding(n=1, n_bytes=2_000_000, used_at=1_764_000_000.0),
    "statistics": Holding(n=30, n_bytes=3_000_000_000, used_at=1_764_000_000.0),
    "jobs": Holding(n=7, n_bytes=40_000),
}
MODEL = ModelHolding(identity="sha256:0123", references=(RUN.settings.model,), n_runs=1, answers=10**6, used_at=1e9)
HELD = Holdings(
    kinds=KINDS,
    models=(MODEL, ModelHolding(identity="sha256:abcdef0123456789", calibration=5_000_000)),
    runs=(RunHolding(run=RUN, n_bytes=1_500_000, shared_bytes=500_000),),
    free_bytes=50_000_000_000,
)
FOUND = Verification(
    key="v",
    started_at=1_764_000_000.0,
    finished_at=1_764_000_060.0,
    n_checked={"record": 4, "export": 1},
    n_bytes=5_000_000,
    damaged=(),
    n_damaged=0,
)
DAMAGED = replace(
    FOUND,
    n_damaged=3,
    damaged=(
        Damage(kind="record", name="record/0123456789abcdef0123", what="its checksum does not match"),
        Damage(kind="unpacked model", name="tiny/model.safetensors", what="it is missing", entry="tiny"),
        Damage(kind="upload", name="upload:mine.txt@0123", what="its content is not what was written"),
    ),
)


@pytest.fixture
def house(backend):
    backend.housekeeping.held = HELD
    return backend.housekeeping


def opened(app, key):
    """The page with the question of this key open."""
    app.session_state[f"delete-{key}"] = True
    return app.run()


def test_the_empty_page_invites_and_the_room_can_be_chosen_before_anything_is_there(open_page, backend):
    app = open_page("storage")
    assert words(app).startswith("The data folder holds nothing yet; 50.0 GB are free on its disk. /nowhere")
    assert {"Prune a model", "or open a run that was made elsewhere"} <= set(links(app))
    assert "By kind" not in words(app)
    assert app.number_input(key="artefact-room").value == 20


def test_it_opens_with_what_there_is_and_says_it_by_kind_model_and_run(open_page, house):
    app = open_page("storage")
    said = words(app)
    assert said.startswith("The data folder takes 3.0 GB; 50.0 GB are free on its disk.")
    assert "Calibration 3.0 GB of 20 GB that it may take" in said
    assert "Runs and their answers with their passages How many: 1 run Size: 2 MB" in said
    assert "List of jobs what ran and when: stays, a few hundred bytes each How many: 7 jobs Size: 40 kB" in said
    assert "SmolLM2 135M (built in) answers 1 MB How many: 1 run" in said
    assert "A model that no run here names (abcdef012345) calibration 5 MB How many: no run" in said
    assert "shares 500 kB with other runs" in said
    assert query_of(links(app)["SmolLM2 135M (built in) at 10, 20, 30 %"])["run"] == RUN.key


def test_what_stays_whatever_happens_has_no_button(open_page, house):
    opening = [block.proto.id.partition("delete-")[2] for block in open_page("storage").get("popover")]
    assert [name for name in opening if name in KINDS] == ["runs", "statistics"]


def test_pinned_and_named_runs_say_so(open_page, house, backend):
    backend.user_data.name_run(RUN.key, "Mine")
    backend.user_data.pin_runs([RUN.key], True)
    assert backend.user_data.marks()[RUN.key] == RunMark(name="Mine", pinned=True)
    app = open_page("storage")
    assert "Mine" in links(app)
    assert "★ pinned, so it stays · SmolLM2 135M (built in) at 10, 20, 30 %" in words(app)


def test_before_anything_is_deleted_it_says_what_goes_and_what_stays_and_why(open_page, house):
    removal = Removal(
        runs=(RUN,),
        refused={"a": "it is pinned; unpin it first", "b": "it is pinned; unpin it first"},
        records=frozenset("xyz"),
        passages=frozenset(),
        n_shared=1,
    )
    house.plan = Cleanup(
        removal=removal,
        items=(Item("statistics", "s", 10), Item("models", "m", 10)),
        stays=(Staying("uploads", 1, "a job that waits or runs may need {them}"),),
        n_bytes=2_000_000,
        n_named=1,
    )
    app = opened(open_page("storage"), "runs")
    said = words(app)
    assert (
        "Delete “SmolLM2 135M (built in) at 10, 20, 30 %” with the answers of 3 models, 1 entry of “Calibration "
        "statistics” and 1 unpacked model, 2 MB? It cannot be undone." in said
    )
    assert "1 of these runs has a name." in said
    assert "2 runs stay, each because it is pinned; unpin it first." in said
    assert "The answers of 1 model stay: other runs use them." in said
    assert "1 uploaded text stays: a job that waits or runs may need it." in said
    assert house.removed == []
    app.button(key="delete-runs-sure").click().run()
    assert house.removed == [Selection(kind="runs")]
    assert app.toast[0].value.startswith(
        "Deleted: SmolLM2 135M (built in) at 10, 20, 30 % with the answers of 3 models"
    )


def test_where_nothing_can_go_there_is_no_button_to_delete(open_page, house):
    house.plan = replace(house.plan, stays=(Staying("logs", 2, "a job that waits or runs may need {them}"),))
    app = opened(open_page("storage"), "statistics")
    assert "Nothing here can be deleted now. 2 logs stay: a job that waits or runs may need them." in words(app)
    assert not any(b.label == "Delete for good" for b in app.button)


@pytest.mark.parametrize("key", ["model-0", f"run-{RUN.key[:16]}"])
def test_a_model_and_a_run_can_be_deleted(open_page, house, key):
    house.plan = replace(house.plan, items=(Item("exports", "e", 10),), n_bytes=10)
    app = opened(open_page("storage"), key)
    app.button(key=f"delete-{key}-sure").click().run()
    assert house.removed == [Selection(model=MODEL.identity) if key == "model-0" else Selection(runs=(RUN.key,))]


def test_many_runs_are_shown_in_parts(open_page, house):
    runs = tuple(RunHolding(run=replace(RUN, key=f"{i:064d}"[::-1]), n_bytes=1, shared_bytes=0) for i in range(12))
    house.held = replace(HELD, runs=runs)
    app = open_page("storage")
    assert f"1 to {RUNS_A_PAGE} of 12 runs" in words(app)
    button(app, "Next").click().run()
    assert app.query_params["page"] == "2" and "11 to 12 of 12 runs" in words(app)
    for page in ("0", "99", "x", "²"):
        assert "of 12 runs" in words(open_page("storage", page=page))


def test_verification_is_asked_for_followed_and_not_asked_for_twice(open_page, house, backend):
    app = open_page("storage")
    button(app, "Verify everything").click().run()
    assert backend.submitted == [VerifySettings()]
    backend.stored_jobs = [job(VerifySettings(), stage="verify", done=3, total=12, unit="megabytes", message="x")]
    app = open_page("storage")
    assert "Running Verification of the data folder" in words(app)
    assert "Reading everything that carries a checksum" in words(app)
    assert not any(b.label.startswith("Verify everything") for b in app.button)
    app.button(key="cancel-1").click().run()
    assert backend.cancelled == [1]


@pytest.mark.parametrize("state", ["failed", "crashed", "cancelled"])
def test_a_verification_that_ended_early_says_why_until_a_newer_one_has_ended(open_page, house, backend, state):
    backend.stored_jobs = [job(VerifySettings(), state, **FAILED)]
    app = open_page("storage")
    assert "The model cannot be reached." in words(app)
    assert [b.label for b in app.button if b.label in ("Try again", "Verify everything")] == ["Try again"]
    house.found = replace(FOUND, finished_at=2e9)
    app = open_page("storage")
    assert "The model cannot be reached." not in words(app)
    assert "Verify everything again" in {b.label for b in app.button}


def test_what_was_sound_is_said_with_when_and_how_much(open_page, house):
    house.found = FOUND
    said = words(open_page("storage"))
    assert "✓ All files intact (checked 24 November 2025" in said
    assert "4 results and notes, 1 file of exported models: 5 MB in 1 min." in said


def test_what_is_damaged_is_named_with_what_to_do(open_page, house):
    house.found = DAMAGED
    app = open_page("storage")
    said = words(app)
    assert "3 of 5 were damaged (checked 24 November 2025" in said
    assert "Answers of a model 0123456789abcdef ✕ Its checksum does not match. Start its run again" in said
    assert "An unpacked model tiny/model.safetensors ✕ It is missing. Delete it: the model is unpacked again" in said
    assert "An uploaded text mine.txt ✕ Its content is not what was written. Delete it, and upload" in said
    house.plan = replace(house.plan, items=(Item("models", "tiny", 0),))
    app = opened(app, "damaged")
    app.button(key="delete-damaged-sure").click().run()
    assert house.removed == [Selection(damaged=True)]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_files_and_visitors_is_shown_as_text(open_page, house, backend, text):
    house.found = replace(DAMAGED, damaged=(Damage(kind="export", name=text, what=text, entry="x"),))
    house.held = replace(HELD, models=(replace(MODEL, references=(text,)),))
    backend.user_data.name_run(RUN.key, text)
    drawn = markup(open_page("storage"))
    assert "<img" not in drawn and "<style>*" not in drawn
    shows_as_text(drawn)


def test_the_room_is_saved_and_a_variable_that_goes_before_it_is_named(open_page, house):
    app = open_page("storage")
    app.number_input(key="artefact-room").set_value(2.5)
    button(app, "Save").click().run()
    assert house.asked_for == [2.5]
    house.allowed = ArtefactRoom(n_bytes=7 * 2**30, fixed=True)
    app = open_page("storage")
    assert "SPARSEDASH_ARTEFACT_GB says how much: 7 GB." in words(app)
    assert not app.number_input


def test_where_others_are_served_it_is_for_administrators(open_page, backend):
    backend.keeps_house = False
    said = words(open_page("storage"))
    assert "What the data folder holds is for administrators." in said
    assert str(backend.data_dir) not in said


def test_what_there_is_can_be_taken_along_as_one_table(open_page, backend, house):
    held = house.holdings()
    made = held_words.holdings_table(held, backend.user_data.marks(), None)
    assert {row[0] for row in made.rows} == {"kind", "model", "run"}
    assert len([row for row in made.rows if row[0] == "run"]) == len(held.runs)
    app = open_page("storage")
    assert "CSV" in [button.label for button in app.get("download_button")]
