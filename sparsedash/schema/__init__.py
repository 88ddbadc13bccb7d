"""Plain values that cross between the front and the engine: settings, records, keys, progress.

Imports nothing of ours.
"""

__version__ = "0.2.0"
