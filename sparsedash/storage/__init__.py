"""What is kept in the data folder between runs: results, uploads, prompts; and hashes that tell
local files apart.
"""
