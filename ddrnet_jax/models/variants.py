"""The members of the family: a line here is a variant of the config, of the network and of the command line."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Variant:
    """Widths and depths of one member of the family (paper table 2)."""

    width: int  # channels of the stem; the high branch has twice as many
    depth1: int  # blocks of layer 1
    depth2: int
    depth3: int  # blocks per branch in each repeat of stage 3
    repeats3: int  # repeats of stage 3, each ending in a bilateral fusion
    depth4: int
    head_width: int
    last_width: int  # channels before the classifier
    dappm_width: int = 128


VARIANTS = {
    "23_slim": Variant(32, 2, 2, 2, 1, 2, head_width=64, last_width=1024),
    "23": Variant(64, 2, 2, 2, 1, 2, head_width=128, last_width=2048),
    "39": Variant(64, 3, 4, 3, 2, 3, head_width=256, last_width=2048),
}
