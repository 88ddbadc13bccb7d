"""The main job: stages of a run, each read from the store or computed."""
