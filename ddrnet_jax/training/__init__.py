"""State, step, losses, optimiser and the loop."""
