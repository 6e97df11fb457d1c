"""Weights in and out: files, names, origins, what of them fits a model."""
