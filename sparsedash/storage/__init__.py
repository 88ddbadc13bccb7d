"""Data kept between runs: results, uploads, prompts; and hashes that tell
local files apart.
"""
