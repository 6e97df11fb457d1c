"""The data sets that a config may name; each has a module of its name here, with its SPEC."""

import importlib

from ddrnet_jax.config import DATA_SETS

_OWN = "folder"  # the user's, whose spec the config has
SPECS = {name: importlib.import_module(f"{__package__}.{name}").SPEC for name in DATA_SETS if name != _OWN}
