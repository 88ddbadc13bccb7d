"""Keeping house: what the data folder holds, what may be deleted of it, and who still needs it."""
