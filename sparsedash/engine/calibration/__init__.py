"""What calibration collects: second moments, gradients, token weights; kept in the store and read back."""
