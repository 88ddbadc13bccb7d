"""What SparseDash is made of: known weaknesses, licences, and a bill of materials. Called by `make`, not installed."""
