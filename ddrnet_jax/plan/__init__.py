"""The cost of a config on accelerators that nobody here owns: compiled and read, never run."""
