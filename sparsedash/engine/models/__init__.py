"""Models: find, check, convert and load them without remote code; run them block by block, resident
or streamed.
"""
