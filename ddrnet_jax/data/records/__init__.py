"""written from folders, read back."""
