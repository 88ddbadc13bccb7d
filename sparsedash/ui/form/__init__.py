"""The form that a run is started with."""
