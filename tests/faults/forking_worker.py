"""Workers with the real engine, one for each data folder named on the standard input: forked, since torch is slow to
import. Prints the process of each.
"""

import os
import signal
import sys

from sparsedash.engine.work import load
from sparsedash.worker import main

load()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os._exit(main(["--data-dir", line.strip()]))
    print(pid, flush=True)
