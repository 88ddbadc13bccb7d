"""Workers with the real engine, one for each data folder named on the standard input: forked, since
torch is slow to import. Prints the process of each.

Everything that a long stage has done so far is kept at once; blocks, batches and steps are counted
in the data folder's file `counted`, and its file `killed` names those at which the worker kills
itself.
"""

import functools
import json
import os
import signal
import sys
from pathlib import Path

from sparsedash import worker
from sparsedash.catalog import resources
from sparsedash.engine.calibration import gradients, statistics
from sparsedash.engine.evaluation import evaluate
from sparsedash.engine.pruning import channel_pruning, compensation, weight_pruning
from sparsedash.jobs.reporter import Reporter
from sparsedash.storage import checkpoint

COUNTED = {
    "calibrated and refitted blocks": (statistics.WalkCheckpoint, "reached"),
    "batches on the way back": (gradients, "_mean_loss"),
    "scored and solved blocks": (channel_pruning, "layer_of"),
    "measured blocks": (compensation, "passage_error"),
    "masked blocks": (weight_pruning, "MaskedBlock"),
    "answered batches": (evaluate._Evaluation, "_forward"),
}
"""What is called once for each of them."""


def keep_and_count_all(folder):
    """Make every stage a long one, of many blocks and batches."""
    checkpoint.CHECKPOINT_INTERVAL_S = 0.0
    resources.KEPT_BYTES = 0
    resources.KEPT_SHARE = 0
    resources.HELD_SHARE = 0
    evaluate.BATCH_TOKENS = 64
    killed_at = json.loads((folder / "killed").read_text())

    def count(what):
        with (folder / "counted").open("a") as ledger:
            ledger.write(f"{what}\n")
        n_begun = (folder / "counted").read_text().splitlines().count(what)
        if n_begun in killed_at.get(what, []):
            os.kill(os.getpid(), signal.SIGKILL)

    def counting(what, call):
        @functools.wraps(call)
        def counted(*args, **kwargs):
            count(what)
            return call(*args, **kwargs)

        return counted

    for what, (where, name) in COUNTED.items():
        setattr(where, name, counting(what, getattr(where, name)))

    class CountedReporter(Reporter):
        def __call__(self, step):
            super().__call__(step)
            count(f"steps of {step.stage}")

    worker.Reporter = CountedReporter


worker.load_job_handlers()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        keep_and_count_all(Path(line.strip()))
        os._exit(worker.main(["--data-dir", line.strip()]))
    print(pid, flush=True)
