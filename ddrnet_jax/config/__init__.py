"""Configs: every key with its unit, and configs from files, flags and JSON."""

from ddrnet_jax.config.checks import validate
from ddrnet_jax.config.schema import DATA_SETS, ConfigError, base

__all__ = ["DATA_SETS", "ConfigError", "base", "validate"]
