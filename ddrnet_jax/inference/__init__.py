"""Masks and overlays from a trained network."""
