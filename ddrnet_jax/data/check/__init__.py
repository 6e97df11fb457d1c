"""The faults of a data set, every file by name."""
