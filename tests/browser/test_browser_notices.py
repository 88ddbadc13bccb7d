"""The browser's own notice when a run ends: asked for by a button, said once, and refused in words."""

from collections.abc import Iterator
from dataclasses import asdict

import pytest
from playwright.sync_api import expect

from sparsedash.jobs.job import Job
from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import hold_lock, job_lock
from sparsedash.schema.settings import RunSettings
from sparsedash.storage.store import claim_data_folder
from tests.browser.conftest import note
from tests.browser.served import DEADLINE_S
from tests.faults.house import eventually

FOREIGN = '"><img src=x onerror=alert(1)>'
RECORDED = """
window.said = [];
window.Notification = class extends window.Notification {
  constructor(title, options) { super(title, options); window.said.push([title, options.body, options.tag]); }
};
"""


class Folder:
    """A data folder with one job that runs for as long as a test wants."""

    def __init__(self, path) -> None:
        claim_data_folder(path)
        self.path = path
        self.table = JobTable(path / "jobs.sqlite")
        self.lock = None

    def run(self, model: str) -> Job:
        settings = RunSettings(model=model)
        job = self.table.submit("run", settings.key(), asdict(settings))
        self.lock = hold_lock(job_lock(self.path, job.id))
        return self.table.claim(job.id, "slot-0", 1)

    def finish(self, job: Job) -> None:
        self.table.finish(job)
        self.lock.close()


@pytest.fixture
def folder(tmp_path) -> Iterator[Folder]:
    made = Folder(tmp_path / "data")
    yield made
    made.table.close()
    if made.lock is not None:
        made.lock.close()


@pytest.fixture
def opened(browser, start_server, folder):
    """Opens the list of jobs for a visitor whose browser has these permissions."""
    contexts = []

    def open_jobs(*permissions: str, before: str = ""):
        address = start_server(folder.path)
        contexts.append(browser.new_context())
        contexts[-1].grant_permissions(list(permissions), origin=address)
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * DEADLINE_S)
        page.complaints = []
        page.on("console", lambda message: note(page.complaints, message))
        page.on("dialog", lambda dialog: page.complaints.append(f"dialog: {dialog.message}"))
        page.add_init_script(RECORDED + before)
        page.goto(f"{address}/jobs")
        return page

    yield open_jobs
    for context in contexts:
        context.close()


def test_a_visitor_who_asked_for_it_is_told_by_the_browser_and_the_toast_leads_on_in_the_same_tab(opened, folder):
    job = folder.run(f"fake/{FOREIGN}")
    page = opened("notifications")
    page.get_by_role("button", name="Tell me when a run is done").click()
    expect(page.get_by_role("button", name="Tell me no more")).to_be_visible()
    expect(page.get_by_text("This browser will say when a run ends")).to_be_visible()
    page.get_by_role("link", name="Published").click()
    expect(page.locator("h1.sd-opening")).to_be_visible()
    ((_, answer, _),) = page.evaluate("said")
    assert answer.startswith("This browser will say when a run ends")

    folder.finish(job)
    eventually(lambda: page.evaluate("said.length") > 1)
    ((title, body, tag),) = page.evaluate("said.slice(1)")
    assert (title, tag) == ("SparseDash", f"sparsedash-{job.id}-1")
    assert FOREIGN in body and body.endswith(" is done.")

    page.evaluate("window.same = 'tab'")
    page.get_by_test_id("stToast").get_by_role("link", name="See the jobs").click()
    expect(page.locator("h1.sd-opening")).to_have_text("Nothing is running.")
    assert page.evaluate("window.same") == "tab"
    assert len(page.context.pages) == 1
    assert page.complaints == []


def test_a_visitor_who_did_not_ask_is_told_by_the_page_alone(opened, folder):
    job = folder.run("fake/model")
    page = opened("notifications")
    expect(page.get_by_role("button", name="Tell me when a run is done")).to_be_visible()
    folder.finish(job)
    expect(page.get_by_test_id("stToast")).to_be_visible()
    assert page.evaluate("said") == []
    assert page.complaints == []


def test_a_browser_that_refuses_says_so_in_words(opened, folder):
    folder.run("fake/model")
    page = opened()
    button = page.get_by_role("button", name="Tell me when a run is done")
    refused = page.get_by_text("The browser refuses notices from this page.")
    expect(button.or_(refused)).to_be_visible()
    if button.is_visible():
        button.click()
    expect(refused).to_be_visible()
    assert page.evaluate("said") == []


def test_where_the_page_came_over_an_open_line_it_says_that_nothing_can_be_said(opened, folder):
    folder.run("fake/model")
    page = opened("notifications", before="Object.defineProperty(window, 'isSecureContext', {value: false});")
    expect(page.get_by_text("it does so only over https, or on the machine itself")).to_be_visible()
    expect(page.get_by_role("button", name="Tell me when a run is done")).to_be_hidden()
    assert page.complaints == []
