"""The network: jax and flax only, plain arguments, no config object."""
