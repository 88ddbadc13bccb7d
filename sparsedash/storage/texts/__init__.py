"""Texts that visitors give: files by their references, and uploads."""
