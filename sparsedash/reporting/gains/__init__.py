"""What a narrower model wins: speed, bytes, shapes."""
