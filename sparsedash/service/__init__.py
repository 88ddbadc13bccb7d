"""What pages ask: the one object they talk to, what a run will take, and how to repeat a published row."""
