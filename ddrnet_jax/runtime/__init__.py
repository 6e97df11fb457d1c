"""The ground that a program runs on: devices, processes, compilation."""
