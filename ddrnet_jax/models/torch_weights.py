"""Official state dicts by the address that others import them from; the code is in weights/state_dicts.py."""

from ddrnet_jax.weights.state_dicts import load_state_dict, read_checkpoint, to_state_dict

__all__ = ["load_state_dict", "read_checkpoint", "to_state_dict"]
