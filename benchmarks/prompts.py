"""How soon both models begin to answer a prompt: python -m benchmarks.prompts [--model REF] [--data-dir DIR]

Prunes the model once (by magnitude, which needs little), then asks three prompts of a fresh worker: the first
one starts the worker, loads the model and makes the sparse one; the others find both warm. Seconds are from the request
to the first text that a page could read, as the page polls, four times a second.
"""

import argparse
import tempfile
import time
from pathlib import Path

from sparsedash.catalog.presets import method_named
from sparsedash.jobs.job import Job
from sparsedash.schema.pair_records import ContinuationSettings
from sparsedash.schema.settings import BUILTIN_MODEL, CalibrationSettings, EvaluationSettings, RunSettings
from sparsedash.service.backend import Backend

POLL_S = 0.25
PROMPTS = (
    ("cold", "The old harbour was quiet, and"),
    ("warm", "She opened the letter and read it twice before"),
    ("warm", "Nobody in the village had ever seen such a"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="where the run is kept; a new folder where not given")
    parser.add_argument("--model", default=BUILTIN_MODEL)
    arguments = parser.parse_args()
    backend = Backend(arguments.data_dir or Path(tempfile.mkdtemp()))
    try:
        left, right = pair(backend, arguments.model)
        for state, prompt in PROMPTS:
            ask(backend, state, ContinuationSettings(left=left, right=right, prompt=prompt))
    finally:
        backend.close()


def pair(backend: Backend, model: str) -> tuple[str, str]:
    """The dense record of a run of the model, and its last sparse one; made where there is none."""
    runs = [run for run in backend.runs() if run.sparse and run.settings.model == model]
    if not runs:
        settings = RunSettings(
            model=model,
            methods=(method_named("magnitude"),),
            sparsities_permille=(200,),
            calibration=CalibrationSettings(n_samples=64, length=128),
            evaluation=EvaluationSettings(n_passages=10),
        )
        until_ended(backend, backend.submit(settings))
        runs = backend.runs()
        print("The worker that made the run is still there: its first prompt is not quite cold.")
    return runs[0].dense, runs[0].sparse[-1]


def ask(backend: Backend, state: str, request: ContinuationSettings) -> None:
    started = time.perf_counter()
    job = backend.submit(request)
    while backend.job(job.id).live and not any(backend.job(job.id).progress.texts):
        time.sleep(POLL_S)
    first = time.perf_counter() - started
    until_ended(backend, job)
    whole = time.perf_counter() - started
    # Where all came between two looks, nobody saw how fast.
    seen = whole - first >= POLL_S
    speed = f"{2 * request.n_tokens / (whole - first):.0f} tokens a second" if seen else "too fast to be timed"
    print(
        f"{state}: first words after {first:.2f} s, all {request.n_tokens} tokens of both after {whole:.2f} s"
        f" ({speed}, both together)"
    )


def until_ended(backend: Backend, job: Job) -> None:
    while backend.job(job.id).live:
        time.sleep(POLL_S)
    ended = backend.job(job.id)
    assert ended.state == "done", f"{ended.error_text}\n{backend.log_tail(job.id)}"


if __name__ == "__main__":
    main()
