"""All that a run has on disk: its folder, its checkpoints, its metrics, what made it."""
