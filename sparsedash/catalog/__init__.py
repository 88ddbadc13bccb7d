"""What there is to choose from and what is published: names, presets, families, sizes.

Tables of plain values; runs nothing.
"""
