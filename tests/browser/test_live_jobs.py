"""Jobs while they run: this test is their worker, so that every moment can be looked at; notices
when they end.
"""

from contextlib import ExitStack
from dataclasses import asdict, replace

import pytest
from playwright.sync_api import expect

from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.lock_files import hold_lock, job_lock, slot_lock
from sparsedash.schema.progress import StageTime, Step
from sparsedash.storage.store import Store
from tests.browser.served import press, ready
from tests.browser.test_every_page import violations
from tests.faults.server_process import eventually
from tests.ui import specimens

PLACES = (".sd-job", ".sd-ruler", ".sd-chips", ".js-plotly-plot")
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


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory):
    """A server whose only slot for a worker is taken: jobs wait until a test does them."""
    folder = tmp_path_factory.mktemp("live") / "data"
    Store(folder).close()
    with hold_lock(slot_lock(folder, 0)):
        yield start_server(folder)


class Worker:
    """Does a run like the specimens' in a data folder, step by step, in place of a real worker."""

    def __init__(self, folder, settings):
        self.store = Store(folder)
        self.table = JobTable(folder / "jobs.sqlite")
        self.run, self.records = specimens.run(settings)
        self.job = self.table.submit("run", self.run.key, asdict(settings))
        self.lock = hold_lock(job_lock(folder, self.job.id))

    def begin(self):
        self.job = self.table.claim(self.job.id, "slot-0", 1)
        self.say("start")

    def say(self, stage, point=None, done=0, total=1):
        stage_times = (StageTime(stage, point, 1.0),)
        self.table.report(
            self.job,
            Step(
                stage,
                done,
                total,
                unit="passages",
                point=point,
                stage_times=stage_times,
            ),
        )

    def answer(self, n_sparse):
        """The dense model and so many sparse ones have answered."""
        for record in (*self.records[: n_sparse + 1], specimens.passages()):
            self.store.put(record.key, record)
        sparse = self.run.sparse[:n_sparse]
        self.store.put(
            self.run.key,
            replace(
                self.run,
                sparse=sparse,
                finished=sparse == self.run.sparse,
            ),
        )

    def end(self, state="done", *why):
        """The job has ended."""
        self.table.end(self.job, state, *why)
        self.lock.close()

    def close(self):
        """A job that has not ended counts as crashed from now on."""
        for part in (self.table, self.store, self.lock):
            part.close()


@pytest.fixture
def new_worker(server):
    """Makes a worker for a run like the specimens'. changes: of its settings."""
    with ExitStack() as at_the_end:

        def make(**changes):
            worker = Worker(server.folder, replace(specimens.SETTINGS, **changes))
            at_the_end.callback(worker.close)
            return worker

        yield make


def test_nothing_moves_from_waiting_to_the_end_and_a_screen_reader_hears_how_far_it_is(
    page, server, new_worker
):
    worker = new_worker()
    tops = []
    heading = page.locator("h1")
    heard = page.locator("#sd-heard")

    def measure():
        ready(page)
        tops.append(page.evaluate(TOPS, PLACES))

    page.goto(f"{server.address}/?run={worker.run.key}")
    expect(heading).to_have_text("This run is queued.")
    expect(heard).to_contain_text("Starts as soon as a worker is free")
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "0")
    measure()
    assert violations(page) == {}
    worker.begin()
    expect(heading).to_have_text("This run has no result yet.")
    expect(heard).to_have_text("Starting the engine, 0 percent done")
    measure()
    for n_sparse in range(4):
        worker.answer(n_sparse)
        worker.say("evaluate", n_sparse, 1, 120)
        expect(page.locator(".sd-chip .sd-figure").filter(has_text="×")).to_have_count(
            n_sparse
        )
        expect(page.locator("a.sd-mark")).to_have_count(n_sparse)
        expect(page.locator(".js-plotly-plot")).to_have_count(1)
        measure()
    assert violations(page) == {}
    worker.end()
    expect(page.locator(".sd-state-done")).to_be_visible()
    measure()
    expect(page.locator("[class*=st-key-next-step]")).not_to_be_empty()
    for place in zip(*tops, strict=True):
        assert len(set(place) - {None}) == 1, tops


def test_the_page_tells_of_a_job_s_end_and_the_browser_too_where_it_was_asked_to(
    open_page, server, new_worker
):
    jobs = [new_worker(model=f"{name}/{FOREIGN}") for name in "ab"]
    for worker in jobs:
        worker.begin()
    page = open_page()
    page.context.grant_permissions(["notifications"], origin=server.address)
    page.add_init_script(RECORDED)
    page.goto(f"{server.address}/runs?view=jobs")
    ready(page)
    ask = page.get_by_role("button", name="Notify me when a run ends")
    toasts = page.get_by_test_id("stToast")
    expect(ask).to_be_visible()
    jobs[0].end()
    expect(toasts.first).to_be_visible()
    assert page.evaluate("notices") == []
    press(page, "Notify me when a run ends")
    expect(page.get_by_role("button", name="Stop notifying me")).to_be_visible()
    ready(page)
    page.get_by_role(
        "link",
        name="Settings",
        exact=True,
    ).press("Enter")
    expect(page.locator("h1.sd-opening")).to_contain_text("The data folder")
    assert page.evaluate("notices.length") == 1
    ready(page)
    jobs[1].end()
    eventually(lambda: page.evaluate("notices.length") > 1)
    ((title, body, tag),) = page.evaluate("notices.slice(1)")
    assert (title, tag) == ("SparseDash", f"sparsedash-{jobs[1].job.id}-1")
    assert FOREIGN in body and body.endswith(": done.")
    page.evaluate("window.same = 'tab'")
    toasts.get_by_role("link", name="See the jobs").last.press("Enter")
    expect(page.locator("h1.sd-opening")).to_have_text("Nothing is running.")
    assert page.evaluate("window.same") == "tab"
    assert len(page.context.pages) == 1
    assert page.complaints == []


def test_a_browser_that_refuses_notices_or_cannot_give_any_says_so(
    open_page, server, new_worker
):
    new_worker(model="a/c").begin()
    page = open_page()
    page.goto(f"{server.address}/runs?view=jobs")
    ready(page)
    button = page.get_by_role("button", name="Notify me when a run ends")
    refused = page.get_by_text("The browser blocks notifications from this page.")
    expect(button.or_(refused)).to_be_visible()
    if button.is_visible():
        button.press("Enter")
    expect(refused).to_be_visible()
    page.add_init_script(
        "Object.defineProperty(window, 'isSecureContext', {value: false});"
    )
    page.reload()
    expect(page.get_by_text("allows notifications only over https")).to_be_visible()
    expect(button).to_be_hidden()
