"""A checkpoint as a file for others, and engines that run such files."""
