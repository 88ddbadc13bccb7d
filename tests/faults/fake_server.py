"""A server that does nothing but tend, once every 20 ms, until it is killed."""

import sys
import time
from pathlib import Path

from sparsedash.jobs.job_table import JobTable
from sparsedash.jobs.local_runner import LocalRunner

folder = Path(sys.argv[1])
runner = LocalRunner(folder, JobTable(folder / "jobs.sqlite"), command=sys.argv[2:])
while True:
    runner.reconcile()
    time.sleep(0.02)
