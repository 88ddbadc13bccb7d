"""Plain values that cross between the front and the engine: settings, records, their keys, progress
and errors.

Imports nothing of ours.
"""
