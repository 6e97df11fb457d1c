"""Drawn street scenes, the data set that is built in."""
