"""How fast the pages are with much in the data folder.

    python -m benchmarks.pages --methods 4 --steps 500

Fills a data folder with made-up answers to 5,153 passages by the dense model and by every method at three sparsities,
starts the server on it, and looks at it with a headless Chromium. Prints one line for each figure: the median and the
slowest, in milliseconds from the key press to the page's last change, with the processor time that the server spent on
each, which is nearly the same on a busy machine; and the memory of browser and server along many steps. With --runs 300
there are so many small runs besides, with what calibration leaves and a log for each, and the pages that list and count
them are looked at. With --questions 1000 six models answer six tasks of so many, and their table is looked at.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from sparsedash.catalog.presets import METHODS
from sparsedash.reporting.run_list import RUN_ADDRESS_LENGTH
from sparsedash.schema.records import Run, about_artefact
from sparsedash.storage.store import Store
from tests.browser.served import Server, chromium
from tests.question_sets import answered, scored
from tests.ui import specimens

N_PASSAGES = 5153
N_RERUNS = 20
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


def fill(folder: Path, n_methods: int, n_passages: int) -> Run:
    """Put dense and 3 * n_methods sparse records over so many passages into a data folder."""
    chosen = [m for m in METHODS if m.settings.pattern == "channelx1"][:n_methods]
    settings = replace(specimens.SETTINGS, methods=tuple(m.settings for m in chosen))
    dense = specimens.verdicts(n_passages)
    records = [replace(specimens.record(dense), key="dense")]
    for i, method in enumerate(chosen):
        for permille in settings.sparsities_permille:
            verdicts = specimens.harmed(dense, round(permille * (0.5 + 0.15 * i)))
            made = specimens.record(verdicts, permille, method.settings, seed=i)
            records.append(replace(made, key=f"{i}-{permille}"))
    run, _ = specimens.run(settings)
    run = replace(run, dense="dense", sparse=tuple(r.key for r in records[1:]))
    store = Store(folder)
    for record in (*records, specimens.passages(n_passages), run):
        store.put(record.key, record)
    store.close()
    return run


def fill_runs(folder: Path, n: int) -> None:
    """Put so many runs of three sparse models over 132 passages into a data folder, on one dense model."""
    dense, store = specimens.verdicts(132), Store(folder)
    first = replace(specimens.record(dense), key="dense-132", passages_key="passages-132")
    for record in (first, replace(specimens.passages(132), key="passages-132")):
        store.put(record.key, record)
    for i in range(n):
        settings = replace(specimens.SETTINGS, sparsities_permille=(50 + i, 150 + i, 250 + i))
        made = [specimens.record(specimens.harmed(dense, p, i), p, seed=i) for p in settings.sparsities_permille]
        records = [replace(each, key=f"run-{i}-{j}", passages_key="passages-132") for j, each in enumerate(made)]
        run, _ = specimens.run(settings)
        run = replace(run, dense=first.key, sparse=tuple(each.key for each in records), started_at=1.7e9 + i)
        for record in (*records, run):
            store.put(record.key, record)
        leave_calibration(store, i)
    store.close()


def fill_tasks(folder: Path, n: int) -> str:
    """Put three base models, each dense and at 20 %, and their answers to n questions of six tasks into a data folder.

    Returns the address of their table.
    """
    store, runs = Store(folder), list[Run]()
    for i in range(3):
        run, records = specimens.run(replace(specimens.SETTINGS, model=f"owner/{i}", sparsities_permille=(200,)))
        made = [replace(each, key=f"tasks-{i}-{each.key}", model=f"owner/{i}") for each in records]
        rng, answers = random.Random(i), {}
        for record in made:
            sets = [
                answered(*(scored(-1, -2, i=q, right=rng.random() < 0.7) for q in range(n)), task=f"task-{t}")
                for t in range(6)
            ]
            keyed = [replace(each, key=f"{record.key}-{each.task}") for each in sets]
            answers[record.key] = tuple(each.key for each in keyed)
            for each in (record, *keyed):
                store.put(each.key, each)
        # Before the large run, which the other pages show.
        runs.append(replace(run, dense=made[0].key, sparse=(made[1].key,), answers=answers, started_at=1.0))
        store.put(run.key, runs[-1])
    store.close()
    return f"runs?together=tasks&{'&'.join(f'chosen={run.key[:RUN_ADDRESS_LENGTH]}' for run in runs)}"


def leave_calibration(store: Store, i: int) -> None:
    """Put what one calibration of a model of 30 blocks leaves into a data folder, small, and the log of a job."""
    identity = f"sha256:{i % 10:064d}"
    for block in range(N_BLOCKS):
        store.put_artefact(f"{i:064d}/{block}", bytes(200), about_artefact("statistics", identity))
    logs = store.folder / "logs"
    logs.mkdir(exist_ok=True)
    (logs / f"{i + 1}.log").write_text("Evaluating.\n")


def first_seen(page: Page, address: str) -> float:
    """Milliseconds from asking for a page, by a visitor who has none of it yet, to its opening sentence and its end."""
    begun = time.monotonic()
    page.goto(address)
    page.wait_for_selector("h1.sd-opening", timeout=60_000)
    page.wait_for_selector(CALM, timeout=60_000)
    return 1000 * (time.monotonic() - begun)


def by_menu(page: Page, address: str) -> float:
    """Milliseconds from a click in the menu, on the light view with the published tables, to the page's end."""
    opened(page, f"{address}/prune?view=published")
    begun = time.monotonic()
    page.get_by_role("link", name="Settings", exact=True).click()
    page.get_by_role("heading", name="The data folder").wait_for(timeout=60_000)
    page.wait_for_selector(CALM, timeout=60_000)
    return 1000 * (time.monotonic() - begun)


def walk_storage(page: Page, server: Server, n_reruns: int) -> None:
    """Print how fast the page is that counts what the data folder holds: opened anew, beside a page that counts
    nothing; reached by the menu; and run again.
    """
    for name in ("prune?view=published", "settings"):
        address = f"{server.address}/{name}"
        took = [first_seen(page, address) for _ in range(n_reruns)]
        print(f"{name}, opened anew: median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms", flush=True)
    took = [by_menu(page, server.address) for _ in range(n_reruns)]
    print(f"settings, by the menu: median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms", flush=True)
    opened(page, f"{server.address}/settings")
    measured("settings, rerun", server, lambda: reruns(page, n_reruns))


def opened(page: Page, address: str) -> None:
    """Open a page and wait until its script has ended."""
    page.goto(address)
    page.wait_for_selector("h1.sd-opening", timeout=60_000)
    page.wait_for_selector(CALM, timeout=60_000)
    page.wait_for_timeout(1500)
    page.evaluate(WATCH)


def spent(server: Server) -> float:
    """Processor seconds of the server so far."""
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


def measured(name: str, server: Server, found: Callable[[], list[float]]) -> None:
    """Print the middle and the slowest of what is measured, and the server's processor time for each."""
    before = spent(server)
    took = found()
    each = 1000 * (spent(server) - before) / len(took)
    print(
        f"{name}: median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms, "
        f"server {each:.0f} ms of processor time, n = {len(took)}",
        flush=True,
    )


def reruns(page: Page, n: int) -> list[float]:
    """Milliseconds that each of n reruns of the whole page took; R is Streamlit's own key for it."""
    found = []
    for _ in range(n):
        page.keyboard.press("r")
        page.wait_for_function("window.took > 0", timeout=60_000)
        found.append(page.evaluate("window.took"))
        page.wait_for_timeout(100)
    return found


def steps(page: Page, n: int) -> list[float]:
    """Milliseconds from J or K to the new passage's number, n times; 50 forwards, 50 back."""
    found = []
    for i in range(n):
        page.evaluate("window.stepped = 0")
        page.keyboard.press("j" if i // 50 % 2 == 0 else "k")
        page.wait_for_function("window.stepped > 0", timeout=60_000)
        found.append(page.evaluate("window.stepped"))
        page.wait_for_selector(CALM)
    return found


def walk_runs(page: Page, server: Server, n_reruns: int) -> None:
    """Print how fast the page with all runs is, once their answers have been read, and how long that took."""
    begun = time.monotonic()
    page.goto(f"{server.address}/runs")
    page.wait_for_selector(".sd-run-factor", timeout=60_000)
    page.get_by_text("read for the first time").wait_for(state="hidden", timeout=600_000)
    print(f"runs, until all answers were read: {time.monotonic() - begun:.1f} s", flush=True)
    opened(page, f"{server.address}/runs")
    measured("runs, rerun", server, lambda: reruns(page, n_reruns))


def walk_tasks(page: Page, server: Server, address: str, n_reruns: int) -> None:
    """Print how fast the table of models by tasks is: for the first time, opened anew, run again."""
    first_seen(page, server.address)
    for name, n in (("first drawn", 1), ("opened anew", n_reruns)):
        measured(
            f"models by tasks, {name}",
            server,
            lambda n=n: [first_seen(page, f"{server.address}/{address}") for _ in range(n)],
        )
    opened(page, f"{server.address}/{address}")
    measured("models by tasks, rerun", server, lambda: reruns(page, n_reruns))


def walk(page: Page, server: Server, n_reruns: int, n_steps: int) -> None:
    """Print every figure."""
    for name in ("overview", "compare?view=layers", "compare?filter=both-wrong"):
        opened(page, f"{server.address}/{'' if name == 'overview' else name}")
        measured(f"{name}, rerun", server, lambda: reruns(page, n_reruns))
    session = page.context.new_cdp_session(page)
    every = max(1, min(EVERY, n_steps))
    for done in range(0, n_steps + 1, every):
        if done:
            measured(f"compare, steps to {done}", server, lambda: steps(page, every))
        session.send("HeapProfiler.collectGarbage")
        used = session.send("Runtime.getHeapUsage")["usedSize"]
        nodes = page.evaluate("document.getElementsByTagName('*').length")
        server_mb = psutil.Process(server.process.pid).memory_info().rss / 1e6
        print(
            f"after {done} steps: {used / 1e6:.1f} MB of JavaScript, {nodes:,} elements; the server {server_mb:.0f} MB",
            flush=True,
        )


def main() -> None:
    """Fill, serve, look, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", type=int, default=4)
    parser.add_argument("--passages", type=int, default=N_PASSAGES)
    parser.add_argument("--reruns", type=int, default=N_RERUNS, help="of each page")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--runs", type=int, default=0, help="small ones besides, and the page that lists them")
    parser.add_argument("--questions", type=int, default=0, help="of each task of six models, and their table")
    parser.add_argument("--keep", type=Path, help="fill this folder and end, for a look by hand")
    arguments = parser.parse_args()
    if arguments.keep:
        fill(arguments.keep, arguments.methods, arguments.passages)
        return
    executable = chromium()
    if executable is None:
        sys.exit("No Chromium found; name one with CHROMIUM=...")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "data"
        fill(folder, arguments.methods, arguments.passages)
        tasks = fill_tasks(folder, arguments.questions) if arguments.questions else ""
        if arguments.runs:
            fill_runs(folder, arguments.runs)
        server = Server(folder)
        try:
            server.wait()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
                # Without the policy of our own pages, which forbids what Playwright does to wait.
                page = browser.new_page(bypass_csp=True)
                if tasks:
                    walk_tasks(page, server, tasks, arguments.reruns)
                if arguments.runs:
                    walk_runs(page, server, arguments.reruns)
                    walk_storage(page, server, arguments.reruns)
                walk(page, server, arguments.reruns, arguments.steps)
                browser.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
