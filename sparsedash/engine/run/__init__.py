"""The main job: the stages of a run, each read from the store where it is known and computed where
it is not.
"""
