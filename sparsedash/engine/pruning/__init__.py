"""Pruning itself: torch only, no files, no transformers, no threads. Start reading at structured.py."""
