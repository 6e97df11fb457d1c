"""The values of a label: train ids from 0, and the one value that is no class."""

IGNORE = 255  # the train id of pixels that count nowhere
