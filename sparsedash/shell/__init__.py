"""The commands of `sparsedash`, a module each; they share the dashboard's data folder and may know
both halves.
"""
