"""The command line: flags, one function a mode, exit codes."""
