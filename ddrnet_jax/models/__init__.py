"""What the network is: jax and flax only, plain arguments, no config object."""
