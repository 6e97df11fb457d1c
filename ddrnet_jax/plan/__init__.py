"""What a config costs on accelerators that nobody here owns: compiled and read, never run."""
