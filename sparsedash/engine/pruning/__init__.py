"""Pruning: torch only, no files, no transformers. Start at channel_pruning.py and
weight_pruning.py.
"""
