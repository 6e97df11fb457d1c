"""What a program runs on: devices, processes, compilation."""
