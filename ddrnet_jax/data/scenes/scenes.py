"""Drawn street scenes: the built-in data set, so that a first run needs no download.

A scene is a small world in metres: x to the right, y up, z ahead of the camera. Everything in it is a convex
polygon with a colour and a class, painted from far to near: street.py paints, street_objects.py knows how each thing
looks.
"""

import functools
from collections.abc import Callable

import cv2
import numpy as np

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.scenes import street_objects as things
from ddrnet_jax.data.scenes.street import SAMPLES, Street, hexes
from ddrnet_jax.data.scenes.street_objects import MARK, PAVEMENT, ROAD, SKY, ribbon

CLASSES = ("road", "lane mark", "pavement", "building", "sky", "tree", "pole", "car", "person")
# The class of a whole scene: which of these objects take more room than usual.
_OBJECTS = {"tree": 0.045, "pole": 0.023, "car": 0.038, "person": 0.013}  # share of a square scene's pixels, median
IMAGE_CLASSES = tuple(
    " and ".join(name for bit, name in enumerate(_OBJECTS) if code >> bit & 1) or "none"
    for code in range(2 ** len(_OBJECTS))
)
COLORS = tuple(
    (int(red), int(green), int(blue))
    for red, green, blue in hexes("804080 ffffff f423e8 464646 4682b4 6b8e23 faaa1e 00008e dc143c")
)

Thing = tuple[float, Callable, tuple]  # its distance in metres, what draws it, where

_FAR_M = 40.0
_SHIFT = 64  # pixels by which a scene may move the textures
# The roughness of each class, in grey levels.
_GRAIN = np.zeros((1, 256), np.float32)
_GRAIN[0, :9] = 4, 3, 2, 2.5, 0.7, 0, 2, 1.5, 2

_STRIPES = np.array([(1, 1, 1), (1, 1, 1), (1, 0.7, -0.1)])  # how white and yellow marks outshine the road


def _sky(street: Street) -> np.ndarray:
    """A canvas u8[H,W,4] of smooth sky, with clouds and perhaps the sun."""
    rng, horizon = street.rng, street.horizon
    rows = np.full((street.height, 1, 4), SKY, np.uint8)
    down = np.clip(np.arange(street.height) / horizon, 0, 1)[:, None] ** rng.uniform(0.6, 1.6)
    rows[:, 0, :3] = street.zenith + (street.haze - street.zenith) * down
    canvas = np.broadcast_to(rows.view(np.uint32), (street.height, street.width, 1)).copy().view(np.uint8)
    if rng.random() < 0.4:
        _puffs(street, canvas, 1, (0.09, 0.09), 0.75)
    for _ in range(rng.integers(0, 4)):
        _puffs(street, canvas, 4, (0.13, 0.05), rng.uniform(0.2, 0.6))
    return canvas


def _puffs(street: Street, canvas: np.ndarray, count: int, size: tuple[float, float], white: float) -> None:
    """A cloud of ellipses; the size in horizons, the colour between the haze (0) and white (1)."""
    rng, size = street.rng, np.array(size) * street.horizon
    color = street.haze * (1 - white) + np.minimum(245 * street.light, 255) * white
    at = rng.uniform(0.05, (0.95, 0.7)) * (street.width, street.horizon)
    offsets = rng.uniform(-1.6, 1.6, (count, 2)) * (np.arange(count) > 0)[:, None]
    middles = (at + offsets * size).astype(int).tolist()
    axes = (size * rng.uniform(0.8, 1.2, (count, 1))).astype(int).tolist()
    for middle, axis in zip(middles, axes, strict=True):
        cv2.ellipse(canvas, middle, axis, 0, 0, 360, (*color, SKY), -1)


def _ground(street: Street) -> None:
    """Paving with its tiles, the kerb, the gutter, the road."""
    kerb, paving = street.kerb, street.paving
    z = np.array([0.3, *np.geomspace(2, 3 * _FAR_M, 11)])
    near, far = z[:-1], z[1:]
    street.fill(ribbon(-90, 90, near, far), paving, PAVEMENT)
    joints = 3 + 1.1 * np.arange(14)
    street.fill(ribbon(-street.wall - 4, street.wall + 4, joints, joints + 0.16), paving * 0.7, PAVEMENT)
    for x in (kerb + 1.3, kerb + 2.4, kerb + 3.5):
        for side in (-x, x):
            street.fill(ribbon(side - 0.07, side + 0.07, near[:7], far[:7]), paving * 0.7, PAVEMENT)
    street.fill(ribbon(-kerb - 0.4, kerb + 0.4, near, far), paving * 0.6 + 90, PAVEMENT)
    street.fill(ribbon(-kerb, kerb, near, far), street.road * 0.55, ROAD)
    street.fill(ribbon(-kerb + 0.25, kerb - 0.25, near, far), street.road, ROAD)


def _marks(street: Street) -> float | None:
    """Dashes and perhaps a zebra crossing. Returns the z at which the crossing begins, or None."""
    rng, kerb = street.rng, street.kerb
    color = street.road + rng.uniform(62, 105) * street.pick(_STRIPES, 0.05)
    half, pitch = rng.uniform(0.3, 0.4), rng.uniform(5, 6.5)
    z = rng.uniform(1, 4) + pitch * np.arange(4)
    for x in (0.0,) if rng.random() < 0.75 else (-kerb * 0.38, kerb * 0.38):
        street.fill(ribbon(x - half, x + half, z, z + pitch * 0.62), color, MARK)
    if rng.random() < 0.5:
        return None
    near, step = rng.uniform(4, 7), rng.uniform(1.5, 1.8)
    x = np.arange(-kerb + 0.5, kerb - 0.9, step)
    street.fill(ribbon(-kerb + 0.25, kerb - 0.25, near - 0.6, near + 4.6), street.road, ROAD)
    street.fill(ribbon(x, x + step * 0.56, near, near + 4), color, MARK)
    return near


class _Places:
    """The things put into the street so far; none hides much of an earlier one."""

    def __init__(self, street: Street):
        self.street = street
        self.taken: list[tuple[float, float]] = []
        self.things: list[Thing] = []

    def put(self, draw: Callable, x: float, z: float, half: float, *more: float) -> None:
        """Puts a thing half a width of `half` metres there, if it is in view and not in the way."""
        street = self.street
        u, half = street.project(x, 0, z)[0], street.focal * half / z
        clear = all(abs(u - a) > half + b for a, b in self.taken)
        if clear and half * 0.5 < u < street.width - half * 0.5:
            self.taken.append((u, half))
            self.things.append((z, draw, (x, z, *more)))


def _houses(street: Street) -> list[Thing]:
    """Houses along both sides, at times a tree between. Returns (distance, draw function, its arguments) each."""
    rng = street.rng
    placed: list[Thing] = []
    for side in (-1, 1):
        z = rng.uniform(2, 8)
        while z < _FAR_M:
            length, x = rng.uniform(11, 19), side * street.wall
            if rng.random() < 0.85:
                # Sorted by its far end: whatever stands in front of its wall is painted after it.
                placed.append((z + length, things.building, (x, z, length)))
            else:
                placed.append((z + length / 2, things.tree, (x + side * 2, z + length / 2)))
            z += length
    for x in rng.uniform(-60, 60, 5):
        z = _FAR_M * rng.uniform(1.35, 1.6)
        placed.append((z, things.block if rng.random() < 0.6 else things.wood, (x, z)))
    return placed


def _furnish(street: Street, zebra_z: float | None) -> list[Thing]:
    """All that stands and moves in the street. Returns (distance, draw function, its arguments), far to near."""
    rng, kerb, places = street.rng, street.kerb, _Places(street)
    if zebra_z:
        for x in rng.uniform(-kerb, kerb, rng.integers(0, 3)):
            places.put(things.person, x, zebra_z + rng.uniform(0.8, 3.2), 0.5)
    for side in (-1, 1):
        for z in rng.uniform(5, 11, rng.integers(1, 4)):
            places.put(things.person, side * (kerb + rng.uniform(0.9, 2.4)), z, 0.5)
        for z in rng.uniform(5, 11.5, 2):
            places.put(things.pole, side * (kerb + 0.8), z, 0.5)
        nearest = zebra_z + 7 if zebra_z else 6.5
        for z, parked in zip(nearest + rng.uniform(0, 9, 2), (True, False), strict=True):
            x, away = (kerb - 1.3, rng.random() < 0.5) if parked else (kerb * 0.42, side > 0)
            places.put(things.car, side * x, z, 1.1, np.pi * (not away) + rng.uniform(-0.08, 0.08))
        for z in rng.uniform(6, 20, 3):
            places.put(things.tree, side * (kerb + rng.uniform(1, 2.6)), z, 0.9)
    if not zebra_z and rng.random() < 0.25:
        yaw = np.pi * (rng.integers(2) - 0.5) + rng.uniform(-0.3, 0.3)
        places.put(things.car, rng.uniform(-1.5, 1.5), rng.uniform(9, 14), 2, yaw)
    return sorted(_houses(street) + places.things, key=lambda thing: -thing[0])


@functools.lru_cache(maxsize=4)
def _textures(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Grain of deviation 1 and the speckle of leaves, wider than a scene: f32[h+_SHIFT,w+_SHIFT] each."""
    noise = np.random.default_rng(0).standard_normal((2, h + _SHIFT, w + _SHIFT), np.float32)
    return noise[0], np.clip(cv2.GaussianBlur(noise[1], (0, 0), 0.8) * 60, -30, 30)


def _develop(rng: np.random.Generator, canvas: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The view of a camera with a soft lens, with the fine pattern of each class. Returns u8[H,W,3]."""
    (h, w), (down, across) = label.shape, rng.integers(0, _SHIFT, 2)
    grain, leaves = (a[down : down + h, across : across + w] for a in _textures(h, w))
    texture = cv2.multiply(grain, cv2.LUT(label, _GRAIN))
    cv2.copyTo(leaves, cv2.compare(label, things.TREE, cv2.CMP_EQ), texture)  # type: ignore[call-overload]  # a number
    texture = cv2.cvtColor(cv2.convertScaleAbs(texture, beta=128), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(cv2.cvtColor(cv2.pyrDown(canvas), cv2.COLOR_RGBA2RGB), 1, texture, 1, -128)


def draw_scene(seed: int, index: int, size_hw: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """One street, a pure function of its arguments: (image, label).

    size_hw  height and width in pixels, 32 or more each
    Returns  image u8[H,W,3] RGB (0..255), label u8[H,W] (0..8, or 255 on our own bonnet)
    """
    rng = np.random.default_rng((seed, index))
    street = Street(rng, *size_hw)
    canvas = _sky(street)
    _ground(street)
    zebra_z = _marks(street)
    for _, draw, where in _furnish(street, zebra_z):
        draw(street, *where)
    street.paint(canvas)
    if rng.random() < 0.3:
        middle, axes = (street.width // 2, street.height), (int(street.width * 0.62), int(street.height * 0.06))
        color = np.clip(street.pick(things.PAINTS) * street.light, 0, 255)
        cv2.ellipse(canvas, middle, axes, 0, 0, 360, (*color, IGNORE), -1)
    label = np.ascontiguousarray(canvas[::SAMPLES, ::SAMPLES, 3])
    return _develop(rng, canvas, label), label


def image_class(label: np.ndarray) -> int:
    """The class of a whole scene, one of IMAGE_CLASSES, from its label u8[H,W]."""
    counts = np.bincount(label.ravel(), minlength=len(CLASSES))
    usual = [share * label.size for share in _OBJECTS.values()]
    objects = counts[[CLASSES.index(name) for name in _OBJECTS]]
    return int((objects > usual) @ (1 << np.arange(len(_OBJECTS))))
