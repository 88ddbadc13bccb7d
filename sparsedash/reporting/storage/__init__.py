"""What the data folder holds, in words; what is said before and after something is deleted; whether it is whole."""
