"""What a server is asked beside its runs: keeping house, serving others, sharing work among machines."""
