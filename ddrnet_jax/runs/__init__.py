"""All that a run has on disk or in a bucket: its folder, its checkpoints, its metrics, what made it."""
