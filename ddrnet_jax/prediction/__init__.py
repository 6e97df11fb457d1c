"""Masks and overlays for people, of images, folders and videos."""
