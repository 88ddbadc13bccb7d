"""What is kept in the data folder between runs: results, uploads, prompts; and fingerprints that show when a file has
changed.
"""
