"""A run that grows before somebody's eyes: this test is its worker, so that every moment can be looked at."""

import re
from dataclasses import asdict, replace

import pytest
from playwright.sync_api import expect

from sparsedash.jobs.job import Taken
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import hold_lock, job_lock, slot_lock
from sparsedash.schema.progress import Step
from sparsedash.storage.store import Store
from tests.ui import specimens

PLACES = (".sd-job", ".sd-numbers", ".js-plotly-plot")
TOPS = """places => places.map(place => {
  const found = document.querySelector(place);
  const scrolled = document.querySelector('[data-testid=stMain]').scrollTop;
  return found && Math.round(found.getBoundingClientRect().top + scrolled);
})"""


class Worker:
    """Does the specimen's run in a data folder, step by step, where a real worker would."""

    def __init__(self, folder):
        self.store, self.table = Store(folder), JobTable(folder / "jobs.sqlite")
        self.run, self.records = specimens.run()
        self.slot = hold_lock(slot_lock(folder, 0))
        self.job = self.table.submit("run", self.run.key, asdict(self.run.settings))
        self.lock = hold_lock(job_lock(folder, self.job.id))

    def begin(self):
        self.job = self.table.claim(self.job.id, "slot-0", 1)
        self.say("start")

    def say(self, stage, point=None, done=0, total=1):
        taken = [Taken(stage, point, 1.0)]
        self.table.report(self.job, Step(stage, done, total, unit="passages", point=point), rate=None, taken=taken)

    def answer(self, n_sparse):
        """The dense model and so many sparse ones have answered."""
        for record in (*self.records[: n_sparse + 1], specimens.passages()):
            self.store.put(record.key, record)
        made = self.run.sparse[:n_sparse]
        whole = made == self.run.sparse
        self.store.put(self.run.key, replace(self.run, sparse=made, finished=whole))

    def close(self):
        self.table.close()
        self.store.close()
        self.lock.close()
        self.slot.close()


@pytest.fixture
def worker(tmp_path):
    working = Worker(tmp_path / "data")
    yield working
    working.close()


@pytest.mark.parametrize("width", [1440, 390])
def test_nothing_moves_from_waiting_to_the_end(width, page, start_server, worker):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{start_server(worker.store.folder)}/?run={worker.run.key}")
    heading = page.locator("h1")
    expect(heading).to_have_text("This run waits for its turn.")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "0")
    tops = [page.evaluate(TOPS, PLACES)]
    worker.begin()
    expect(heading).to_have_text("The first results are on their way.")
    tops.append(page.evaluate(TOPS, PLACES))
    for n_sparse in range(4):
        worker.answer(n_sparse)
        worker.say("evaluate", n_sparse, 1, 120)
        expect(page.locator(".sd-numbers .sd-figure").filter(has_text="×")).to_have_count(min(2, n_sparse))
        expect(page.locator(".js-plotly-plot")).to_be_visible()
        expect(page.locator("[data-testid=stApp][data-test-script-state=notRunning]")).to_be_attached()
        tops.append(page.evaluate(TOPS, PLACES))
    worker.table.finish(worker.job)
    expect(page.locator(".sd-state-done")).to_be_visible()
    tops.append(page.evaluate(TOPS, PLACES))
    expect(page.locator(".sd-next")).to_have_text(re.compile("^Next: "))
    assert [{top for top in places if top is not None} for places in zip(*tops, strict=True)] == [
        {places[-1]} for places in zip(*tops, strict=True)
    ]


def test_nothing_is_on_its_way_once_somebody_has_cancelled(page, start_server, worker):
    page.goto(f"{start_server(worker.store.folder)}/?run={worker.run.key}")
    worker.begin()
    expect(page.locator("h1")).to_have_text("The first results are on their way.")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("h1")).to_have_text("This run is being stopped.")
    expect(page.locator(".sd-whole")).to_have_text("Stopping: what is finished is kept")
    worker.table.mark_cancelled(worker.job, "Stopped.", "")
    expect(page.locator("h1")).to_have_text("This run has no results.")
    expect(page.get_by_text("on their way")).to_have_count(0)
