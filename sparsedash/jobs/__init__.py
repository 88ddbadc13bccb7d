"""Background jobs: the table of jobs, the locks that show which workers are alive, and the runner
that starts workers here.
"""
