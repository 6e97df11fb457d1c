"""The range of values that an image of more than 8 bits makes use of."""

import numpy as np

_MOST_VALUES = 2**20
_RARE = 0.1  # percent of the pixels


def used(pixels: np.ndarray) -> tuple[float, float] | None:
    """(lowest, highest) of the values [...] of an image, but for a few that lie far away; None where none is finite.

    Far away are dead and hot pixels, marks that a camera draws, and the number that stands for "no data": values that
    are rare, or further from all others than these are from each other.
    """
    values = pixels.ravel()[:: max(1, pixels.size // _MOST_VALUES)]
    values = values[np.isfinite(values)].astype(np.float64)
    if not values.size:
        return None
    low, high = np.percentile(values, (_RARE, 100 - _RARE))
    found = np.unique(values[(values >= 2 * low - high) & (values <= 2 * high - low)])
    while len(found) > 2 and found[1] - found[0] > found[-1] - found[1]:
        found = found[1:]
    while len(found) > 2 and found[-1] - found[-2] > found[-2] - found[0]:
        found = found[:-1]
    return pixels.dtype.type(found[0]).item(), pixels.dtype.type(found[-1]).item()
