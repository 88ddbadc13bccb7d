"""Background jobs: the table they are written in, the locks that say who is alive, and what starts them on this
machine.
"""
