"""Jobs while they run: this test is their worker, so that every moment can be looked at; notices when they end."""

import re
from collections.abc import Iterator
from dataclasses import asdict, replace

import pytest
from playwright.sync_api import expect

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.lock_files import hold_lock, job_lock, slot_lock
from sparsedash.schema.progress import Step, Taken
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import Store, claim_data_folder
from tests.browser.served import ready
from tests.browser.test_every_page import LOOKS, violations
from tests.faults.house import eventually
from tests.ui import specimens

PLACES = (".sd-job", ".sd-numbers", ".js-plotly-plot")
TOPS = """places => places.map(place => {
  const found = document.querySelector(place);
  const scrolled = document.querySelector('[data-testid=stMain]').scrollTop;
  return found && Math.round(found.getBoundingClientRect().top + scrolled);
})"""
FOREIGN = '"><img src=x onerror=alert(1)>'
RECORDED = """
window.notices = [];
window.Notification = class extends window.Notification {
  constructor(title, options) { super(title, options); window.notices.push([title, options.body, options.tag]); }
};
"""


class Worker:
    """Does the specimen's run in a data folder, step by step, in place of a real worker."""

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
        taken = (Taken(stage, point, 1.0),)
        self.table.report(self.job, Step(stage, done, total, unit="passages", point=point, taken=taken))

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


def faults(page) -> dict[str, str]:
    """What axe finds in both themes, on a wide screen and on a phone."""
    found = {}
    for theme, width in LOOKS:
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(500)  # The colours fade from one theme to the other.
        found |= violations(page)
    page.set_viewport_size({"width": 1440, "height": 900})
    return found


def test_nothing_moves_from_waiting_to_the_end_and_a_screen_reader_hears_how_far_it_is(page, start_server, worker):
    page.goto(f"{start_server(worker.store.folder).address}/?run={worker.run.key}")
    heading, heard, tops = page.locator("h1"), page.locator("#sd-heard"), []

    def measure():
        ready(page)
        tops.append(page.evaluate(TOPS, PLACES))

    expect(heading).to_have_text("This run waits for its turn.")
    expect(heard).to_contain_text("Starts as soon as a worker is free.")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "0")
    found = faults(page)
    measure()
    worker.begin()
    expect(heading).to_have_text("The first results are on their way.")
    expect(heard).to_have_text("Starting the engine, 0 percent done")
    measure()
    for n_sparse in range(4):
        worker.answer(n_sparse)
        worker.say("evaluate", n_sparse, 1, 120)
        expect(page.locator(".sd-numbers .sd-figure").filter(has_text="×")).to_have_count(min(2, n_sparse))
        expect(page.locator(".js-plotly-plot")).to_be_visible()
        measure()
    found |= faults(page)
    worker.table.end(worker.job, "done")
    expect(page.locator(".sd-state-done")).to_be_visible()
    measure()
    expect(page.locator(".sd-next")).to_have_text(re.compile("^Next: "))
    moved = [{top for top in place if top is not None} for place in zip(*tops, strict=True)]
    assert all(len(place) == 1 for place in moved), tops
    assert found == {}


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_run_that_ends_without_results_says_so(end, page, start_server, worker):
    page.goto(f"{start_server(worker.store.folder).address}/?run={worker.run.key}")
    worker.begin()
    expect(page.locator("h1")).to_have_text("The first results are on their way.")
    if end == "cancelled":
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("h1")).to_have_text("This run is being stopped.")
        worker.table.end(worker.job, "cancelled", "Stopped.")
    else:
        worker.table.end(worker.job, "failed", "It broke.", "Try again.")
        expect(page.locator(".sd-state-failed")).to_be_visible()
    expect(page.locator("h1")).to_have_text("This run has no results.")
    expect(page.get_by_text("on their way")).to_have_count(0)
    assert faults(page) == {}


class OneJob:
    """A data folder with one job that runs for as long as a test wants."""

    def __init__(self, path, model: str) -> None:
        claim_data_folder(path)
        self.path, self.table = path, JobTable(path / "jobs.sqlite")
        settings = RunSettings(model=model)
        self.job: Job = self.table.submit("run", settings.key(), asdict(settings))
        self.lock = hold_lock(job_lock(path, self.job.id))
        self.job = self.table.claim(self.job.id, "slot-0", 1)

    def finish(self) -> None:
        self.table.end(self.job, "done")
        self.lock.close()

    def close(self) -> None:
        self.table.close()
        self.lock.close()


@pytest.fixture
def running(tmp_path) -> Iterator[OneJob]:
    job = OneJob(tmp_path / "data", f"fake/{FOREIGN}")
    yield job
    job.close()


@pytest.fixture
def open_jobs(open_page, start_server, running):
    """Opens the list of jobs in a browser that has these permissions."""

    def opened(*permissions: str, before: str = ""):
        address = start_server(running.path).address
        page = open_page()
        page.context.grant_permissions(list(permissions), origin=address)
        page.add_init_script(RECORDED + before)
        page.goto(f"{address}/jobs")
        ready(page)
        return page

    return opened


def test_the_browser_gives_notice_where_it_was_asked_to_and_the_toast_leads_on_in_the_same_tab(open_jobs, running):
    page = open_jobs("notifications")
    page.get_by_role("button", name="Tell me when a run is done").click()
    expect(page.get_by_role("button", name="Tell me no more")).to_be_visible()
    page.get_by_role("link", name="Published").click()
    expect(page.locator("h1.sd-opening")).to_be_visible()
    assert page.evaluate("notices.length") == 1
    running.finish()
    eventually(lambda: page.evaluate("notices.length") > 1)
    ((title, body, tag),) = page.evaluate("notices.slice(1)")
    assert (title, tag) == ("SparseDash", f"sparsedash-{running.job.id}-1")
    assert FOREIGN in body and body.endswith(": done.")
    page.evaluate("window.same = 'tab'")
    page.get_by_test_id("stToast").get_by_role("link", name="See the jobs").click()
    expect(page.locator("h1.sd-opening")).to_have_text("Nothing is running.")
    assert page.evaluate("window.same") == "tab"
    assert len(page.context.pages) == 1
    assert page.complaints == []


def test_without_being_asked_the_page_alone_gives_notice(open_jobs, running):
    page = open_jobs("notifications")
    expect(page.get_by_role("button", name="Tell me when a run is done")).to_be_visible()
    running.finish()
    expect(page.get_by_test_id("stToast")).to_be_visible()
    assert page.evaluate("notices") == []
    assert page.complaints == []


def test_a_browser_that_refuses_notices_or_cannot_give_any_says_so(open_jobs):
    page = open_jobs()
    button = page.get_by_role("button", name="Tell me when a run is done")
    refused = page.get_by_text("The browser refuses notices from this page.")
    expect(button.or_(refused)).to_be_visible()
    if button.is_visible():
        button.click()
    expect(refused).to_be_visible()
    page = open_jobs("notifications", before="Object.defineProperty(window, 'isSecureContext', {value: false});")
    expect(page.get_by_text("it does so only over https, or on the machine itself")).to_be_visible()
    expect(page.get_by_role("button", name="Tell me when a run is done")).to_be_hidden()
