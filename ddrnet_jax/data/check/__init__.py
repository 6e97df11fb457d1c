"""What is wrong with a data set, every file by name."""
