"""How far a run is, from what it has taken so far and what its parts are expected to take."""
