"""A drawn street before anything stands in it: its light, its camera, and how polygons in it are painted."""

import itertools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

SAMPLES = 2  # to a pixel, each way: `cv2.pyrDown` centres its pixels on the even samples, and so does the label

Metres = float | np.ndarray  # one number, or f64[N]


def hexes(colors: str) -> np.ndarray:
    """Colours as in "ff8000 0080ff". Returns f64[N,3]."""
    return np.array([list(bytes.fromhex(color)) for color in colors.split()], np.float64)


# Zenith and horizon, the light on everything below, the haze in metres, the share of lit windows.
_MOODS = (
    (hexes("5494de c6dcf0"), (1.08, 1.05, 1.0), 300, 0.0),  # noon
    (hexes("7c8690 b4babe"), (0.92, 0.94, 0.96), 220, 0.1),  # overcast
    (hexes("7c90b8 e8b47c"), (1.10, 0.98, 0.84), 240, 0.1),  # late afternoon
    (hexes("50548a d0867a"), (0.90, 0.82, 0.86), 220, 0.4),  # dusk
    (hexes("c4cacc dee0de"), (0.98, 0.99, 0.99), 150, 0.2),  # mist
    (hexes("e2aab0 f8e2c4"), (1.04, 0.98, 0.95), 220, 0.1),  # dawn
)


class Street:
    """A street, the camera in it, and the polygons to paint, in order."""

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        """
        height, width  of the picture, in pixels
        """
        self.rng = rng
        self.polygons: list[tuple[np.ndarray, npt.ArrayLike, int]] = []
        sky, light, self.haze_m, self.lit = _MOODS[rng.integers(len(_MOODS))]
        exposure = rng.uniform(0.92, 1.12) * rng.uniform(0.96, 1.04, 3)
        self.light, (self.zenith, self.haze) = light * exposure, np.minimum(sky * exposure, 255)
        self.height, self.width = height * SAMPLES, width * SAMPLES
        self.focal = rng.uniform(0.84, 0.96) * (self.height * self.width) ** 0.5
        self.vanishing_x = self.width * rng.uniform(0.44, 0.56)
        self.horizon = self.height * rng.uniform(0.38, 0.46)
        self.kerb = rng.uniform(3.5, 4.4)
        self.wall = self.kerb + rng.uniform(3, 4.5)
        self.eye_x, self.eye_y = self.kerb * rng.uniform(-0.1, 0.4), rng.uniform(1.9, 2.6)
        self.curve = rng.uniform(-0.003, 0.003)
        grey, contrast = rng.uniform(70, 135), rng.uniform(-1, 1, 2)
        self.road = grey + rng.uniform(-10, 10, 3)
        self.paving = grey + 22 + 42 * contrast[0] + contrast[1] * np.array([20, 4, -18])
        self.sun_right = rng.random() < 0.5
        # Drawn at once, and gone round if need be: a hundred small draws cost more than the scene.
        tints = rng.random(96).tolist(), rng.uniform(0.8, 1.12, 96).tolist(), rng.uniform(-1, 1, (96, 3))
        self.tints = itertools.cycle(zip(*tints, strict=True))

    def pick(self, palette: np.ndarray, spread: float = 18) -> np.ndarray:
        """One colour of a palette f64[N,3], a little off. Returns f64[3]."""
        which, tone, shift = next(self.tints)
        return palette[int(which * len(palette))] * tone + shift * spread

    def fill(self, polygons: np.ndarray, colors: npt.ArrayLike, label: int) -> None:
        """Adds convex polygons f64[N,K,3] in metres, in colours f64[3] or f64[N,3]."""
        self.polygons.append((polygons, colors, label))

    def project(self, x: Metres, y: Metres, z: Metres) -> tuple[Any, Any]:
        """Metres -> samples (u, v), a number or an f64[N] each. The street bends with the square of the distance."""
        u = self.vanishing_x + self.focal * ((x - self.eye_x) / z + self.curve * z)
        return u, self.horizon + self.focal * (self.eye_y - y) / z

    def paint(self, canvas: np.ndarray) -> None:
        """Paints all polygons, through the haze, on a canvas u8[H,W,4]: red, green, blue and the class."""
        x, y, z = np.concatenate([p.reshape(-1, 3) for p, _, _ in self.polygons]).T.copy()
        ends = np.cumsum(np.repeat([p.shape[1] for p, _, _ in self.polygons], [len(p) for p, _, _ in self.polygons]))
        starts = np.concatenate([[0], ends[:-1]])
        colors = self._colors(z[starts])
        seen, coordinates = np.array(True), []
        for position, size in zip(self.project(x, y, z), (self.width, self.height), strict=True):
            low, high = np.minimum.reduceat(position, starts), np.maximum.reduceat(position, starts)
            seen = seen & (high > 0) & (low < size) & (high - low > 3)
            coordinates.append(np.rint(position).astype(np.int32))
        samples = np.stack(coordinates, -1)
        spans = (a[seen].tolist() for a in (starts, ends, colors))
        for start, end, color in zip(*spans, strict=True):
            cv2.fillConvexPoly(canvas, samples[start:end], color)

    def _colors(self, z: np.ndarray) -> np.ndarray:
        """Lit colours and class of all polygons, seen from their distances f64[N]. Returns f64[N,4]."""
        colors, row = np.empty((len(z), 4)), 0
        for polygons, color, label in self.polygons:
            rows = colors[row : row + len(polygons)]
            rows[:, :3], rows[:, 3] = color, label
            row += len(polygons)
        clear = np.exp(z[:, None] / -self.haze_m)
        colors[:, :3] = np.clip(self.haze + (colors[:, :3] * self.light - self.haze) * clear, 0, 255)
        return colors
