"""How fast the pages are with much in the data folder.

    python -m benchmarks.pages --methods 4 --steps 500

Fills a data folder with made-up answers to 5,153 passages by the dense model and by every method at
three sparsities, starts the server on it, and looks at it with a headless Chromium. Prints one line
for each figure: the median and the slowest, in milliseconds from the key press to the page's last
change, with the processor time that the server spent on each, which is nearly the same on a busy
machine; and the memory of browser and server along many steps. With --runs 300 there are so many
small runs besides, with what calibration leaves and a log for each, and the pages that list and
count them are looked at. With --questions 1000 six models answer six tasks of so many, and their
table is looked at. Before that the words of every page are counted as it opens: ours, not those of
passages, prompts, charts and closed folds; how far down its first chart begins; and where the chips
under the ruler end, also at the width of a phone.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from benchmarks.arguments import parser_of
from sparsedash.catalog.presets import METHODS
from sparsedash.reporting.run_list import RUN_ADDRESS_LENGTH
from sparsedash.schema.records import about_artefact
from sparsedash.storage.store import Store
from tests.browser.served import Server, chromium
from tests.question_sets import answered, scored
from tests.ui import specimens

N_BLOCKS = 30
EVERY = 100
CALM = "[data-testid=stApp][data-test-script-state=notRunning]"
WATCH = """() => {
  window.pressed = 0; window.seen = '';
  window.addEventListener('keydown', () => { window.pressed = performance.now(); window.took = 0; }, true);
  const app = document.querySelector('[data-testid=stApp]');
  let ran = false;
  new MutationObserver(() => {
    const state = app.getAttribute('data-test-script-state');
    // A rerun that is over within one frame is only seen to be asked for, never to run.
    if (state !== 'notRunning') ran = true;
    else if (ran) { ran = false; window.took = performance.now() - window.pressed; }
  }).observe(app, {attributes: true});
  const count = () => (document.querySelector('.sd-count') || {}).textContent || '';
  let before = count();
  new MutationObserver(() => {
    if (count() && count() !== before) { before = count(); window.stepped = performance.now() - window.pressed; }
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


WORDS = """() => {
  const main = document.querySelector('[data-testid=stMain]');
  const foreign = '.sd-prompts, .sd-quoted, .sd-passage, .sd-word, .sd-top tbody, .js-plotly-plot, ' +
    '[class*=st-key-rows]';
  const unseen = 'style, script, .sd-heard, .sd-unseen, .st-key-menu, [data-testid=stIconMaterial], ' +
    '[class*=st-key-help-]';
  const texts = document.createTreeWalker(main, NodeFilter.SHOW_TEXT), words = [];
  while (texts.nextNode()) {
    const part = texts.currentNode.parentElement, fold = part.closest('details:not([open])');
    const hidden = fold && !part.closest('summary') || !part.checkVisibility({visibilityProperty: true});
    if (!hidden && !part.closest(`${foreign}, ${unseen}`)) words.push(...texts.currentNode.textContent.split(/\\s+/));
  }
  const chart = document.querySelector('.js-plotly-plot');
  const top = chart && Math.round(chart.getBoundingClientRect().top + main.scrollTop);
  const chips = document.querySelector('.sd-chips');
  const end = chips && Math.round(chips.getBoundingClientRect().bottom + main.scrollTop);
  return [words.filter(word => /\\p{L}/u.test(word)).length, top, end];
}"""
SCREEN = {"width": 1280, "height": 720}
PHONE = {"width": 390, "height": 844}
PAGES = ("?run=example", "prune", "compare?run=example", "settings", "models", "runs")


def fill(store: Store, n_methods: int, n_passages: int) -> None:
    """Put dense and 3 * n_methods sparse records over so many passages into the store."""
    methods = [
        method.settings for method in METHODS if method.settings.pattern == "channelx1"
    ][:n_methods]
    settings = replace(specimens.SETTINGS, methods=tuple(methods))
    dense = specimens.verdicts(n_passages)
    records = [replace(specimens.record(dense), key="dense")]
    for i, spec in enumerate(settings.points):
        harm = round(spec.permille * (0.5 + 0.15 * methods.index(spec.method)))
        sparse = specimens.record(
            specimens.harmed(dense, harm), spec.permille, spec.method, seed=i
        )
        records.append(replace(sparse, key=f"{i}-{spec.permille}"))
    _put_run(store, settings, records)
    _put(store, specimens.passages(n_passages))


def fill_runs(store: Store, n_runs: int) -> None:
    """Put so many runs of three sparse models over 132 passages into the store, on one dense model.

    Beside each: what calibrating a model of N_BLOCKS blocks leaves, but small, and the log of a
    job.
    """
    dense = specimens.verdicts(132)
    _put(store, replace(specimens.passages(132), key="passages-132"))
    logs = store.folder / "logs"
    logs.mkdir(exist_ok=True)
    for i in range(n_runs):
        settings = replace(
            specimens.SETTINGS, sparsities_permille=(50 + i, 150 + i, 250 + i)
        )
        records = [
            replace(
                specimens.record(dense), key="dense-132", passages_key="passages-132"
            )
        ]
        for permille in settings.sparsities_permille:
            sparse = specimens.record(
                specimens.harmed(dense, permille), permille, seed=i
            )
            records.append(
                replace(sparse, key=f"run-{i}-{permille}", passages_key="passages-132")
            )
        _put_run(store, settings, records, started_at=1.7e9 + i)
        identity = f"sha256:{i % 10:064d}"
        for block in range(N_BLOCKS):
            store.put_artefact(
                f"{i:064d}/{block}", bytes(200), about_artefact("statistics", identity)
            )
        (logs / f"{i + 1}.log").write_text("Evaluating.\n")


def fill_tasks(store: Store, n_questions: int) -> str:
    """Put three base models, each dense and at 20 %, and their answers to six tasks into the store.

    Returns the address of their table.
    """
    address = "runs?together=tasks"
    for i in range(3):
        rng = random.Random(i)
        settings = replace(
            specimens.SETTINGS, model=f"owner/{i}", sparsities_permille=(200,)
        )
        _, models = specimens.run(settings)
        records = [
            replace(record, key=f"tasks-{i}-{record.key}", model=settings.model)
            for record in models
        ]
        answers = {}
        for record in records:
            answers[record.key] = ()
            for task in range(6):
                questions = [
                    scored(-1, -2, i=number, right=rng.random() < 0.7)
                    for number in range(n_questions)
                ]
                key = f"{record.key}-task-{task}"
                _put(store, replace(answered(*questions, task=f"task-{task}"), key=key))
                answers[record.key] += (key,)
        # Before the large run, which the other pages show.
        run = _put_run(store, settings, records, answers=answers, started_at=1.0)
        address += f"&chosen={run.key[:RUN_ADDRESS_LENGTH]}"
    return address


def _put_run(store, settings, records, **changes):
    run, _ = specimens.run(settings)
    dense, *sparse = [record.key for record in records]
    run = replace(run, dense=dense, sparse=tuple(sparse), **changes)
    for value in (*records, run):
        _put(store, value)
    return run


def _put(store, value):
    store.put(value.key, value)


class Walk:
    """A browser's page on a server. Each figure is printed as soon as it is measured."""

    def __init__(self, page: Page, server: Server, n_reruns: int) -> None:
        self.page = page
        page.set_default_timeout(60_000)
        self._process = psutil.Process(server.process.pid)
        self._n_reruns = n_reruns

    def print_times(
        self, title: str, milliseconds: Callable[[], float], n: int = 0
    ) -> None:
        """Print the median and the slowest of n measurements, and the server's processor time for
        each.
        """
        n = n or self._n_reruns
        before_s = self._processor_s()
        times = [milliseconds() for _ in range(n)]
        server = 1000 * (self._processor_s() - before_s) / n
        print(
            f"{title}: median {statistics.median(times):.0f} ms, slowest {max(times):.0f} ms, "
            f"server {server:.0f} ms of processor time, n = {n}",
            flush=True,
        )

    def _processor_s(self):
        times = self._process.cpu_times()
        return times.user + times.system

    def print_reruns(self, name: str, title: str = "") -> None:
        """Print how long reruns of a whole page take."""
        self.open(name)
        self.page.wait_for_timeout(1500)
        self.page.evaluate(WATCH)
        self.print_times(f"{title or name or 'overview'}, rerun", self._rerun)

    def open(self, name: str) -> float:
        """Milliseconds from asking for a page to its opening sentence and its end."""
        begun = time.monotonic()
        self.page.goto(f"/{name}")
        self.page.wait_for_selector("h1.sd-opening")
        self.page.wait_for_selector(CALM)
        return 1000 * (time.monotonic() - begun)

    def print_words(self) -> None:
        """Print the number of our words on every page, where its first chart begins, and where the
        chips end.
        """
        for address in PAGES:
            n_words, top, end = self._words_and_places(address)
            chart = "no chart" if top is None else f"first chart at {top} px"
            chips = "" if end is None else f", chips end at {end} px"
            print(f"{address}: {n_words} words, {chart}{chips}", flush=True)
        self.page.set_viewport_size(PHONE)
        _, _, end = self._words_and_places(PAGES[0])
        print(f"{PAGES[0]} on a phone: chips end at {end} px", flush=True)
        self.page.set_viewport_size(SCREEN)

    def _words_and_places(self, address):
        self.open(address)
        if "run=" in address:
            self.page.wait_for_selector(".js-plotly-plot", state="attached")
        self.page.wait_for_timeout(1500)
        return self.page.evaluate(WORDS)

    def _rerun(self):
        self.page.wait_for_timeout(100)
        # Streamlit's own key for it.
        self.page.keyboard.press("r")
        self.page.wait_for_function("window.took > 0")
        return self.page.evaluate("window.took")

    def step(self, key: str) -> float:
        """Milliseconds from a key to the new passage's number."""
        self.page.wait_for_selector(CALM)
        self.page.evaluate("window.stepped = 0")
        self.page.keyboard.press(key)
        self.page.wait_for_function("window.stepped > 0")
        return self.page.evaluate("window.stepped")

    def by_menu(self) -> float:
        """Milliseconds from a click in the menu, on the light view with the published tables, to
        the page's end.
        """
        self.open("prune?view=published")
        self.page.wait_for_timeout(1500)
        begun = time.monotonic()
        self.page.get_by_role("link", name="Settings", exact=True).click()
        self.page.get_by_role("heading", name="The data folder").wait_for()
        self.page.wait_for_selector(CALM)
        return 1000 * (time.monotonic() - begun)

    def print_memory(self, n_steps: int) -> None:
        """Print the memory of browser and server."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("HeapProfiler.collectGarbage")
        browser_mb = session.send("Runtime.getHeapUsage")["usedSize"] / 1e6
        server_mb = self._process.memory_info().rss / 1e6
        n_elements = self.page.evaluate("document.getElementsByTagName('*').length")
        print(
            f"after {n_steps} steps: {browser_mb:.1f} MB of JavaScript, {n_elements:,} elements; "
            f"the server {server_mb:.0f} MB",
            flush=True,
        )


def walk_tasks(walk: Walk, table: str) -> None:
    """The table of models by tasks: for the first time, opened anew, run again."""
    walk.open("")
    walk.print_times("models by tasks, first drawn", lambda: walk.open(table), n=1)
    walk.print_times("models by tasks, opened anew", lambda: walk.open(table))
    walk.print_reruns(table, "models by tasks")


def walk_runs(walk: Walk) -> None:
    """The page with all runs, once their answers have been read; and the page that counts what the
    data folder holds, compared with one that counts nothing.
    """
    begun = time.monotonic()
    walk.page.goto("/runs")
    walk.page.wait_for_selector(".sd-run-factor")
    walk.page.get_by_text("read for the first time").wait_for(
        state="hidden", timeout=600_000
    )
    print(
        f"runs, until all answers were read: {time.monotonic() - begun:.1f} s",
        flush=True,
    )
    walk.print_reruns("runs")
    walk.print_times(
        "prune?view=published, opened anew", lambda: walk.open("prune?view=published")
    )
    walk.print_times("settings, opened anew", lambda: walk.open("settings"))
    walk.print_times(
        "settings, by the menu (server: with the page before it)", walk.by_menu
    )
    walk.print_reruns("settings")


def walk_passages(walk: Walk, n_steps: int) -> None:
    """The pages on the large run, and many steps along its passages: 50 forwards, 50 back."""
    for name in ("", "compare?view=layers", "compare?filter=both-wrong"):
        walk.print_reruns(name)
    keys = cycle("j" * 50 + "k" * 50)
    every = min(EVERY, n_steps)
    walk.print_memory(0)
    for done in range(every, n_steps + 1, every):
        walk.print_times(
            f"compare, steps to {done}", lambda: walk.step(next(keys)), n=every
        )
        walk.print_memory(done)


def main() -> None:
    arguments = _arguments()
    executable = chromium()
    if executable is None:
        sys.exit("No Chromium found; name one with CHROMIUM=...")
    with tempfile.TemporaryDirectory() as parent:
        store = Store(Path(parent) / "data")
        fill(store, arguments.methods, arguments.passages)
        table = fill_tasks(store, arguments.questions) if arguments.questions else ""
        fill_runs(store, arguments.runs)
        store.close()
        server = Server(store.folder)
        try:
            server.wait()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=executable, args=["--no-sandbox"]
                )
                # Without the policy of our own pages, which forbids what Playwright does to wait.
                walk = Walk(
                    browser.new_page(bypass_csp=True, base_url=server.address),
                    server,
                    arguments.reruns,
                )
                walk.print_words()
                if table:
                    walk_tasks(walk, table)
                if arguments.runs:
                    walk_runs(walk)
                walk_passages(walk, arguments.steps)
                browser.close()
        finally:
            server.stop()


def _arguments():
    parser = parser_of(
        __doc__,
        methods=4,
        passages=5153,
        reruns=(20, "of each page"),
        steps=500,
        runs=(0, "small ones besides, and the page that lists them"),
        questions=(0, "of each task of six models, and their table"),
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
