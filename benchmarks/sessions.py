"""How the server bears many visitors at once, and much in its data folder.

    python -m benchmarks.sessions --sessions 40 --seconds 60 --cores 2

Visitors without a browser speak Streamlit's own protocol: they open pages and poll as browsers do while a job runs.
Prints how long their reruns took and what went wrong; the server's memory before, with and after them; and, on a folder
with many jobs and runs, how long a rerun of the overview and of the list of jobs takes. The machine's load is printed
beside each.
"""

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil

from benchmarks.visitor import Visit, Visitor
from sparsedash.jobs.job_table import JobTable
from sparsedash.schema.settings import (
    BUILTIN_CLOZE,
    BUILTIN_MODEL,
    CalibrationSettings,
    EvaluationSettings,
    RunSettings,
)
from sparsedash.service.backend import Backend
from sparsedash.storage.store import Store
from tests.browser.served import Server
from tests.ui import specimens

PAGES = ("", "runs", "prune", "compare", "models")
"""As they are named in the address; the overview is the first one."""

N_RUNS, N_JOBS = 300, 1000


def fill(folder: Path, n_runs: int, n_jobs: int) -> None:
    """Put so many finished runs and ended jobs into a data folder; the runs are those of the newest jobs."""
    run, records = specimens.run()
    store = Store(folder)
    for record in (*records, specimens.passages()):
        store.put(record.key, record)
    table = JobTable(folder / "jobs.sqlite")
    for number in range(n_jobs):
        seeded = replace(run.settings.calibration, seed=number)
        settings = replace(run.settings, calibration=seeded)
        key = settings.key()
        job = table.claim(table.submit("run", key, asdict(settings)).id, "slot-0", 1)
        assert job is not None
        table.end(job, "done")
        if number >= n_jobs - n_runs:
            store.put(key, replace(run, key=key, settings=settings, started_at=run.started_at + number))
    table.close()
    store.close()


def live_job(folder: Path, model: str) -> int:
    """Ask for a run that takes long."""
    os.environ["SPARSEDASH_WORKERS"] = "0"  # the server's runner starts it, not ours
    backend = Backend(folder)
    settings = RunSettings(
        model=model,
        sparsities_permille=tuple(range(50, 500, 50)),
        calibration=CalibrationSettings(n_samples=128),
        evaluation=EvaluationSettings(corpus=BUILTIN_CLOZE),
    )
    job = backend.submit(settings)
    backend.close()
    del os.environ["SPARSEDASH_WORKERS"]
    return job.id


def visits(address: str, n: int, seconds: float) -> list[Visit]:
    """What n visitors at once were given, each on its page for so long."""
    found: list[Visit] = []

    def stay(page: str) -> None:
        visit = Visit()
        try:
            with Visitor(address, page) as visitor:
                visit = visitor.visit
                visitor.rerun()
                visitor.stay(seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, a visitor met it
            visit.errors.append(f"{type(error).__name__}: {error}")
        found.append(visit)

    threads = [threading.Thread(target=stay, args=(PAGES[number % len(PAGES)],)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def memory(server: Server) -> float:
    """Megabytes of the server that are its own."""
    return float(psutil.Process(server.process.pid).memory_full_info().uss) / 1e6


def spent(server: Server) -> float:
    """Processor seconds of the server so far."""
    times = psutil.Process(server.process.pid).cpu_times()
    return float(times.user + times.system)


def told(name: str, seconds: list[float]) -> None:
    """Print the middle and the slow end of what was measured."""
    ordered = sorted(1000 * took for took in seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    print(
        f"{name}: median {statistics.median(ordered):.0f} ms, p95 {p95:.0f} ms, slowest {ordered[-1]:.0f} ms, "
        f"n = {len(ordered)}, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def many_sessions(folder: Path, arguments: argparse.Namespace) -> None:
    """Print what many visitors at once were given during a job, and what they left in the server's memory."""
    server = Server(folder)
    try:
        server.wait()
        if arguments.cores:
            psutil.Process(server.process.pid).cpu_affinity(list(range(arguments.cores)))
        first = visits(server.address, len(PAGES), 0.0)  # who brings in what others find there
        before = memory(server)
        job = live_job(folder, arguments.model)
        found = visits(server.address, arguments.sessions, arguments.seconds)
        most = memory(server)
        if server.process.poll() is not None:
            sys.exit(f"The server ended with {server.process.returncode}:\n{server.log.read_text()}")
        errors = [error for visit in (*first, *found) for error in visit.errors]
        table = JobTable(folder / "jobs.sqlite")
        print(f"{arguments.sessions} sessions, {len(errors)} errors, the job is {table.get(job).state}", flush=True)
        table.close()
        for error in errors[:5]:
            print(f"  {error[:300]}", file=sys.stderr)
        told("a rerun with all of them", [took for visit in found for took in visit.seconds])
        time.sleep(arguments.settle)
        after = memory(server)
        print(
            f"memory of the server: {before:.0f} MB before, {most:.0f} MB with them, {after:.0f} MB "
            f"{arguments.settle:.0f} s after they left, {after / before:.2f} times before",
            flush=True,
        )
    finally:
        server.stop()


def full_folder(folder: Path, arguments: argparse.Namespace) -> None:
    """Print how long one visitor waits for pages that list much."""
    fill(folder, arguments.runs, arguments.jobs)
    server = Server(folder)
    try:
        server.wait()
        for page in ("", "runs"):
            with Visitor(server.address, page) as visitor:
                visitor.rerun()
                visitor.visit.seconds.clear()
                before = spent(server)
                for _ in range(arguments.reruns):
                    visitor.rerun()
                each = 1000 * (spent(server) - before) / arguments.reruns
                told(
                    f"{page or 'overview'} with {arguments.jobs} jobs and {arguments.runs} runs", visitor.visit.seconds
                )
                print(
                    f"  {each:.0f} ms of the server's processor time each, nearly the same on a busy machine",
                    flush=True,
                )
    finally:
        server.stop()


def main() -> None:
    """Both, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=BUILTIN_MODEL)
    parser.add_argument("--sessions", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0, help="that each stays")
    parser.add_argument("--settle", type=float, default=150.0, help="seconds; Streamlit keeps sessions for two minutes")
    parser.add_argument("--cores", type=int, help="that the server may use; all")
    parser.add_argument("--runs", type=int, default=N_RUNS)
    parser.add_argument("--jobs", type=int, default=N_JOBS)
    parser.add_argument("--reruns", type=int, default=30, help="of each page of the full folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        full_folder(Path(folder) / "full", arguments)
        many_sessions(Path(folder) / "visited", arguments)


if __name__ == "__main__":
    main()
