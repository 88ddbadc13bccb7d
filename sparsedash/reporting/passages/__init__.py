"""What is said of the passages of a comparison: one by one, and in groups."""
