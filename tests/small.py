"""The smallest DDRNet, in the place of 23-slim where a test is about its layers and not about their numbers.

It has every kind of layer: half as many blocks, few channels, and a fiftieth of the parameters.
"""

import contextlib
from unittest import mock

from ddrnet_jax.models import ddrnet
from ddrnet_jax.models.variants import VARIANTS, Variant
from ddrnet_jax.weights import origins

VARIANT = Variant(16, 1, 1, 1, 1, 1, head_width=24, last_width=40, dappm_width=20)


def use():
    """What is built as 23-slim from now on is the smallest network."""
    VARIANTS["23_slim"] = VARIANT
    _forget()


@contextlib.contextmanager
def in_place_of_23_slim():
    """The same, to the end of a block."""
    with mock.patch.dict(VARIANTS):
        use()
        yield
    _forget()


def _forget():
    """What is kept by the name of a variant."""
    for kept in (ddrnet.builder, origins._shapes, origins._slots, origins._known_names):
        kept.cache_clear()
