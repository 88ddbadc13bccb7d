"""Models: found, checked, converted and loaded without remote code; run block by block."""
