"""What the pages ask: the backend, what a run will take and why it cannot start, and how to repeat
a published row.
"""
