"""A run as one HTML file that needs nothing else: scores, curves, confusions, worst and best images."""
