"""What is kept in the data folder between runs, and how it is told apart: the store, uploads, prompts, fingerprints of
files.
"""
