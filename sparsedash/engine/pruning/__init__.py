"""Pruning: torch only. Start at channel_pruning.py and weight_pruning.py."""
