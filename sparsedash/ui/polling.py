"""How often pages and the server look again at jobs, in seconds."""

JOB_S = 1.0
"""The state and progress of a job."""

NOTICE_S = 2.0
"""Whether a job has ended, on pages that are about something else."""

WRITTEN_S = 0.25
"""Text that two models are writing: it grows while it is read."""

RECONCILE_S = 1.0
"""The job table beside what really runs, by the server."""

MACHINES_S = 2.0
"""How often a page asks what the machines of a cluster do."""
