"""The half that knows torch: models, pruning, evaluation. Runs only in workers, in the shell and in
the Python API.
"""

import os

from sparsedash.storage.local_machine import keep_freed

keep_freed()

# Read when the hub's clients are imported: they tell the hub what was asked for, not what asked for
# it and how often.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_UPDATE_DOWNLOAD_COUNTS", "0")

# Read when torch is loaded: threads that wait for each other sleep after a while. They would spin
# for milliseconds, which halves the speed beside other work; so many turns cost nothing on an idle
# machine, where 1,000 cost 8 % of a forward pass. Whoever has said how they wait is not overruled.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
