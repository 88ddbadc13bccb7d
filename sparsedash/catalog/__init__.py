"""Catalog: choices, presets, model families and shapes, published results, and needs for memory and
disk.

Tables of plain values; runs nothing.
"""
