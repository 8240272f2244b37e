"""The steps of the main job, each one function of a run folder."""
