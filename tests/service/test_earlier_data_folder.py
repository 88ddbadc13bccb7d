"""A data folder that version 0.1 wrote, before the code moved into packages, opens with everything in it.

`data_folder_of_0_1` holds one run of two methods on a tiny random model, its calibration, an upload, a prompt, a
divergence over a passage, a blind choice, and five jobs. Names under which things are stored are part of the format.
"""

import shutil
from pathlib import Path

import pytest

from sparsedash.schema import plain_values, store_keys
from sparsedash.schema.method_settings import MethodSettings
from sparsedash.schema.store_keys import outcomes_key, statistics_key
from sparsedash.service.backend import Backend
from sparsedash.storage.store import Store

RUN = "5ad7db177f9310c6f0c1ac1712e277f128b9406b3a1cfef553763c89cc1392bb"
DENSE = "52ccf1cdedc97d0296c95137050f271bb65eaed6a473a3c823bc2ea375457bb4"
SPARSE = (
    "2b0e77804f6d27130de355acce580e5cf2ab740c619a0911b93cd88cd77c3be4",
    "8f3897d9c57cfa60327d603b5a3a562148a993e11a0e1d2293b949e58a405403",
    "e57deb3edafd2bd3628100bc47a85f143561c787321f930458d09697cd2254e6",
    "937b74f0a256eb0deaea90a033dc7cb5815c7ea4df157743b08b3e5502aa9588",
)
CONTINUATION = "3f1eaf2525886077acb0b48b06458865d93dd952fc136d832029a999ccb8d10c"
DIVERGENCE = "24eecf9348b50050fa5f9407c6361eba382b4708c83a8f3554107f28df956721"
VERSIONS = plain_values.STAGE_VERSIONS | {"statistics": 1, "outcomes": 2, "solve": 2}
UPLOAD = "upload:lamp-and-boat.jsonl@95fa082f7d81549502889bb68037ef36"


@pytest.fixture
def backend(tmp_path):
    kept = Path(__file__).with_name("data_folder_of_0_1")
    opened = Backend(Path(shutil.copytree(kept, tmp_path / "data")))
    yield opened
    opened.close()


def test_its_run_and_every_record_of_it_are_shown(backend):
    (run,) = backend.runs()
    assert (run.key, run.dense, run.sparse, run.finished) == (RUN, DENSE, SPARSE, True)
    assert run.settings.methods[1] == MethodSettings(saliency="magnitude", compensation="none", width_multiple=8)
    records = [backend.record(key) for key in (DENSE, *SPARSE)]
    assert [len(record.outcomes) for record in records] == [6] * 5
    assert [record.sparsity_permille for record in records] == [0, 250, 500, 250, 500]
    assert len(backend.passages(records[0].passages_key).contexts) == 6


def test_its_jobs_are_listed_as_they_ended(backend):
    assert [(job.id, job.kind, job.state) for job in backend.jobs()] == [
        (5, "run", "cancelled"),
        (4, "divergence", "done"),
        (3, "continuation", "done"),
        (2, "run", "failed"),
        (1, "run", "done"),
    ]


def test_its_upload_prompt_continuation_divergence_and_choice_are_there(backend):
    assert list(backend.uploads.kept()) == [UPLOAD]
    (prompt,) = backend.user_data.prompts(DENSE, SPARSE[1])
    assert (prompt.prompt, prompt.key()) == ("the lamp and the", CONTINUATION)
    assert backend.continuation(CONTINUATION).prompt == "the lamp and the"
    assert len(backend.divergence(DIVERGENCE).places) == 6
    assert backend.user_data.choices(DENSE, SPARSE[0]) == {"passage-0": DENSE}


def test_its_calibration_and_answers_are_found_under_todays_keys_of_its_maths(backend, monkeypatch):
    """Whose numbers have been raised since: what was computed then is shown, and is not mixed with what is now."""
    monkeypatch.setattr(plain_values, "STAGE_VERSIONS", VERSIONS)
    monkeypatch.setattr(store_keys, "STAGE_VERSIONS", VERSIONS)
    (run,) = backend.runs()
    settings, store = run.settings, Store(backend.data_dir)
    text, passages = run.corpora["calibration"], run.corpora["evaluation"]
    statistics = statistics_key(run.model_identity, settings.dtype, text, settings.calibration)
    assert store.recall(store_keys.calibrated_note(statistics)) == "3"
    for key, made in zip(SPARSE, settings.points, strict=True):
        asked = (run.model_identity, settings.dtype, passages, settings.evaluation)
        assert outcomes_key(*asked, (statistics, *made), n_sparse=settings.n_sparse) == key
    artefacts = [store.get_artefact(key) for key in store._artefacts]
    assert len(artefacts) >= 6
    assert None not in artefacts
    store.close()
