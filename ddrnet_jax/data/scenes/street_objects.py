"""The looks of each thing in a drawn street: houses, trees, poles, people, cars.

A thing is convex polygons in metres (x to the right, y up, z ahead), given to `street.fill` in the order of painting.
A class is told by silhouette and pattern, hardly by colour, on purpose: a network has to look at shapes and at what
is around them. Thin things are stout: predictions come at stride 8.
"""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ddrnet_jax.data.scenes.street import Metres, Street, hexes

ROAD, MARK, PAVEMENT, BUILDING, SKY, TREE, POLE, CAR, PERSON = range(9)


_WALLS = hexes("d6c4a4 b05c48 a6a6a8 e8e2d8 7e848c c07a40 8cb0dc 889a5a 587246 e6bc90 c6d4e2 dcb0ae")
_ROOFS = hexes("9c523e 605a5c 7a463a 546070")
_LEAVES = hexes("487636 62843c 346046 968c3e ba7034 c4a04e 3e6a34")
PAINTS = hexes("686c74 969a9e e2e4e4 b8322e 2e5296 427056 cea846 6e96b0 c4bcaa 787a7c c66c3c")
_CLOTHES = hexes("20348c d02c2c f0eadc 1e8a4c e8a81c 26282e 2c7ad8 a84a1c b43c9c 5a2c92 ea6a2c 1c9aa2")
_SKINS, _HAIRS = hexes("f4d0b2 e6bc98 d6a680 b07c5c"), hexes("28201c 5c3e28 c4a060 84807e 964c28")
_POSTS, _SIGNS = hexes("22262a 1c2824 1e2228 e8e8e0 ece8da e0e4e8"), hexes("ce2c2c 2c5cb0 e8be32 ececd8 328254")
_BARK = hexes("5c4838 6e6862 463c36")
_LIGHTS = hexes("f04a3c f4ba3c 54d678")
_GLOW, _GLAZING, _TYRES, _GLASS = hexes("fad682 3c4854 161618 20262e")

# What a rectangle of a facade is; an awning has stripes of two colours.
_WALL, _PANE, _LIT, _AWNING = range(4)

# Limbs as `upright` takes them, in units of a person's height; then how a stride moves each one's lower end.
_LIMBS = np.array(
    [
        (-0.07, 0.1, 0, -0.07, 0.085, 0.5),
        (0.07, 0.1, 0, 0.07, 0.085, 0.5),
        (-0.22, 0.06, 0.44, -0.14, 0.06, 0.8),
        (0.22, 0.06, 0.44, 0.14, 0.06, 0.8),
        (0, 0.17, 0.44, 0, 0.2, 0.8),
    ]
)
_STRIDE = np.array([-1, 1, -0.6, 0.6, 0]) * 0.1
_LIMB_TONES = np.array([1, 0.85, 0.8, 0.8, 1])[:, None]

# A car: rectangles (s0, s1, t0, t1) on faces 0-4 of the body (rear, right, front, left, top), 5-9 the cabin.
_PAINT, _TRIM, _WINDOW, _TYRE, _LAMP, _PLATE = range(6)
_CAR_PARTS = np.array(
    [(f, s, s + 0.22, -0.55, 0.2, _TYRE) for f in (0, 2) for s in (0.03, 0.75)]
    + [(f, 0, 1, 0, 1, _PAINT) for f in range(5)]
    + [(f, 0, 1, 0, 0.28, _TRIM) for f in range(4)]
    + [(f, s, s + 0.22, 0.48, 0.84, _LAMP) for f in (0, 2) for s in (0.03, 0.75)]
    + [(f, 0.34, 0.66, 0.3, 0.6, _PLATE) for f in (0, 2)]
    + [(f, 0, 1, 0, 1, _PAINT) for f in range(5, 10)]
    + [(f, 0.06, 0.94, 0.08, 0.88, _WINDOW) for f in (5, 7)]
    + [(f, s, s + 0.43, 0.08, 0.86, _WINDOW) for f in (6, 8) for s in (0.05, 0.52)]
)
_FACES, _PART_COLORS = _CAR_PARTS[:, 0].astype(int), _CAR_PARTS[:, 5].astype(int)
_CORNERS = np.array([[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7]])


def _circle(corners: int, turn: float = 0.0) -> np.ndarray:
    """A regular polygon of radius 1. Returns f64[corners,2]."""
    angle = turn + np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def _inside(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Weights of a face's corners, anticlockwise, at its points (s, t) f64[N,K]; `@` them with faces: f64[N,K,4]."""
    return np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], -1)


def _rects(rects: np.ndarray) -> np.ndarray:
    """Rectangles (s0, s1, t0, t1) f64[N,4] as weights of a face's corners. Returns f64[N,4,4]."""
    return _inside(rects[:, [0, 1, 1, 0]], rects[:, [2, 2, 3, 3]])


_ROUND = _circle(12)
_PART_WEIGHTS = _rects(_CAR_PARTS[:, 1:5])
_HUBS, _RADII = np.tile([[0.2], [0.79]], (2, 1)), np.repeat([0.44, 0.22], 2)[:, None]
_WHEELS = _inside(_HUBS + _RADII * _ROUND[:, 0] / 4, 0.06 + _RADII * _ROUND[:, 1] / 0.66)
_UPRIGHT: np.ndarray = np.zeros((6, 4, 3))
_UPRIGHT[[0, 0, 3, 3], range(4), 0] = 1
_UPRIGHT[[1, 1, 4, 4], range(4), 0] = -1, 1, 1, -1
_UPRIGHT[[2, 2, 5, 5], range(4), 1] = 1
_UPRIGHT = _UPRIGHT.reshape(6, 12)
_SPOT = _ROUND[None, :, [0, 0, 1]] * (1, 0, 0.5)  # a disc on the ground
_BOARDS = _ROUND, _circle(4), _circle(4, np.pi / 4), _circle(3, np.pi / 2)
_LAMP_ARM = np.array([0.9, 1, -0.2, 0.9, 1, 0.15, 1.5, 0.7, -0.45, 1.5, 0.6, 0.2]).reshape(2, 6)


def upright(x: float, z: float, rows: npt.ArrayLike) -> np.ndarray:
    """Trapezoids f64[N,4,3] facing us; rows f64[N,6]: (middle, half width, height) of the lower and upper end."""
    return (np.asarray(rows, np.float64) @ _UPRIGHT).reshape(-1, 4, 3) + (x, 0, z)


def discs(x: Metres, y: np.ndarray, z: float, radius: Metres, shape: np.ndarray = _ROUND) -> np.ndarray:
    """Round things facing us; y an f64[N], x and radius a number or an f64[N]. Returns f64[N,K,3]."""
    out = np.full((len(y), len(shape), 3), z, np.float64)
    out[..., 0] = np.reshape(x, (-1, 1)) + np.reshape(radius, (-1, 1)) * shape[:, 0]
    out[..., 1] = y[:, None] + np.reshape(radius, (-1, 1)) * shape[:, 1]
    return out


def ribbon(x0: Metres, x1: Metres, z0: Metres, z1: Metres) -> np.ndarray:
    """Rectangles on the ground, a number or an f64[N] each. Returns f64[N,4,3]."""
    out = np.zeros((max(np.size(x0), np.size(z0)), 4, 3))
    out[:, 0, 0] = out[:, 3, 0] = x0
    out[:, 1, 0] = out[:, 2, 0] = x1
    out[:, 0, 2] = out[:, 1, 2] = z0
    out[:, 2, 2] = out[:, 3, 2] = z1
    return out


def _shade(street: Street, x: float, z: float, radius: float) -> None:
    """The shade of something that stands there."""
    on_road = abs(x) < street.kerb
    color = (street.road if on_road else street.paving) * 0.66
    street.fill(_SPOT * radius + (x, 0, z), color, ROAD if on_road else PAVEMENT)


def _facade(columns: int, storeys: int, shop: int) -> tuple[np.ndarray, np.ndarray]:
    """A wall, its grid of windows, perhaps a shop below: weights f64[N,4,4], and what each rectangle is."""
    cells = np.arange(shop * columns, columns * storeys)[:, None]
    column, storey, half = cells % columns, cells // columns, np.arange(2 * columns * shop)[:, None] / 2
    windows = np.hstack([column + 0.2, column + 0.8, storey + 0.24, storey + 0.8])
    panes = half[::2] + [0.1, 0.9, 0.1, 0.62] - half[::2] * [0, 0, 1, 1]
    stripes = half + [0, 0.5, 0.66, 0.98] - half * [0, 0, 1, 1]
    rects = np.concatenate([[[0, columns, 0, storeys]], windows, panes, stripes])
    kinds = [_WALL] + [_PANE] * (len(windows) + len(panes)) + [_AWNING, _AWNING + 1] * len(panes)
    return _rects(rects / [columns, columns, storeys, storeys]), np.array(kinds)


@functools.cache
def _facades(*shapes: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The facades of walls (columns, storeys, shop): which wall i64[N], weights f64[N,4,4] and kind i64[N]."""
    weights, kinds = zip(*(_facade(*shape) for shape in shapes), strict=True)
    which = np.repeat(np.arange(len(shapes)), [len(k) for k in kinds])
    return which, np.concatenate(weights), np.concatenate(kinds)


def _walls(street: Street, faces: np.ndarray, shapes: Sequence, wall: np.ndarray, tones: npt.ArrayLike) -> None:
    """Walls f64[N,4,3] with the facades of their shapes, in a colour times a tone each."""
    which, weights, kinds = _facades(*shapes)
    kinds = np.where((kinds == _PANE) & (street.rng.random(len(kinds)) < street.lit), _LIT, kinds)
    colors = np.array([wall, _GLAZING, _GLOW, wall[::-1] * 0.9, wall * 0.3 + 165])[kinds]
    colors[kinds == _WALL] *= np.reshape(tones, (-1, 1))
    street.fill(weights @ faces[which], colors, BUILDING)


def _roof(street: Street, x: float, inner: float, z: float, far: float, high: float, wall: np.ndarray) -> None:
    """A gable roof over the walls at x and inner."""
    ridge, top, eaves = (x + inner) / 2, high + street.rng.uniform(2, 3.5), x - np.sign(x) * 0.3
    slope = [(ridge, top, z), (ridge, top, far), (eaves, high - 0.2, far), (eaves, high - 0.2, z)]
    street.fill(np.array([slope]), street.pick(_ROOFS), BUILDING)
    street.fill(np.array([[(x, high, z), (inner, high, z), (ridge, top, z)]]), wall * 0.85, BUILDING)


def building(street: Street, x: float, z: float, length: float) -> None:
    """A house along the street, its front at x, its near end at z."""
    rng, far, storeys = street.rng, z + length, int(street.rng.integers(2, 6))
    if abs(street.project(x, 0, far)[0] * 2 - street.width) > street.width:
        return
    high, inner, shop = storeys * rng.uniform(2.8, 3.3), x + np.sign(x) * rng.uniform(6, 9), int(rng.random() < 0.4)
    wall = street.pick(_WALLS)
    if storeys < 5 and rng.random() < 0.6:
        _roof(street, x, inner, z, far, high, wall)
    front = (x, 0, z), (x, 0, far), (x, high, far), (x, high, z)
    end = (x, 0, z), (inner, 0, z), (inner, high, z), (x, high, z)
    shapes = (max(2, round(length / 3.8)), storeys, shop), (2, storeys, 0)
    tones = (1.05, 0.82) if (x > 0) != street.sun_right else (0.82, 1.05)
    _walls(street, np.array([front, end]), shapes, wall, tones)


def block(street: Street, x: float, z: float) -> None:
    """A tower far away that closes the street."""
    half, storeys = street.rng.uniform(8, 15), int(street.rng.integers(2, 5))
    face = upright(x, z, [(0, half, 0, 0, half, storeys * 4.5)])
    _walls(street, face, [(int(half / 2.2), storeys, 0)], street.pick(_WALLS), 1)


def wood(street: Street, x: float, z: float) -> None:
    """Trees far away."""
    crowns = discs(x + 5.0 * np.arange(-2, 3), street.rng.uniform(2, 5, 5), z, street.rng.uniform(5, 7, 5))
    street.fill(crowns, street.pick(_LEAVES), TREE)


def tree(street: Street, x: float, z: float) -> None:
    """A broad-leaved tree or a fir."""
    rng, leaf, high = street.rng, street.pick(_LEAVES, 10), street.rng.uniform(4.4, 6.2)
    _shade(street, x, z, 1.4)
    street.fill(upright(x, z, [(0, 0.32, 0, 0, 0.24, high * 0.6)]), street.pick(_BARK, 8), TREE)
    if rng.random() < 0.25:
        tier = np.arange(4.0)
        base = high * (0.18 + 0.2 * tier)
        rows = np.stack([0 * tier, 2 - 0.36 * tier, base, 0 * tier, 0 * tier, base + high * 0.34], -1)
        street.fill(upright(x, z, rows), leaf * (0.72 + 0.16 * tier[:, None]), TREE)
        return
    angle, radius = rng.uniform(0, 2 * np.pi) + np.arange(7) * 2.4, high * rng.uniform(0.15, 0.21, 7)
    up = np.sort(np.sin(angle))
    crown = discs(x + high * 0.16 * np.cos(angle), high * (0.7 + 0.12 * up), z, radius)
    street.fill(crown, leaf * (0.92 + 0.2 * up[:, None]), TREE)


def pole(street: Street, x: float, z: float) -> None:
    """A street lamp, a sign or a traffic light, on a straight post with two bands."""
    rng, color, top = street.rng, street.pick(_POSTS, 6), (_lamp, _sign, _traffic_light)[street.rng.integers(3)]
    half, high = rng.uniform(0.26, 0.33), rng.uniform(3.3, 4.3)
    _shade(street, x, z, 0.7)
    shaft: list[tuple[float, ...]] = [
        (0, half * a, b, 0, half * a, c) for a, b, c in ((1, 0, high), (1.05, 0.7, 1.1), (1.05, 1.8, 2.2))
    ]
    shaft += [(half * 0.5, half * 0.5, 0, half * 0.5, half * 0.5, high), (0, half * 1.5, 0, 0, half * 1.3, 0.4)]
    bands = 255 - color
    street.fill(upright(x, z, shaft), [color, bands, bands, color * 0.8, color * 0.7], POLE)
    top(street, x, z, high, color)


def _lamp(street: Street, x: float, z: float, high: float, color: np.ndarray) -> None:
    towards, up = [-np.sign(x), 1, 1, -np.sign(x), 1, 1], [0, 0, high, 0, 0, high]
    street.fill(upright(x, z, _LAMP_ARM * towards + up), [color * 0.9, _GLOW], POLE)


def _sign(street: Street, x: float, z: float, high: float, color: np.ndarray) -> None:
    sizes = street.rng.uniform(0.7, 0.85) * np.array([1, 0.72, 0.3])
    board = discs(x, np.full(3, min(high, 3.4)), z, sizes, _BOARDS[street.rng.integers(4)])
    street.fill(board, [street.pick(_SIGNS, 12), street.pick(_SIGNS, 12), color * 0.6], POLE)


def _traffic_light(street: Street, x: float, z: float, high: float, color: np.ndarray) -> None:
    street.fill(upright(x, z, [(0, 0.5, high - 1.5, 0, 0.5, high + 0.2)]), _TYRES, POLE)
    hues = _LIGHTS * np.where(np.arange(3) == street.rng.integers(3), 1, 0.35)[:, None]
    street.fill(discs(x, high - np.array([0.1, 0.62, 1.14]), z, 0.23), hues, POLE)


def person(street: Street, x: float, z: float) -> None:
    """Someone who walks, stands or waits."""
    rng, high = street.rng, street.rng.uniform(1.55, 2.0)
    shirt, trousers, hair = street.pick(_CLOTHES), street.pick(_CLOTHES), street.pick(_HAIRS, 8)
    _shade(street, x, z, 0.5)
    limbs = _LIMBS * high
    limbs[:, [1, 4]] *= 1.15
    limbs[:, 0] += _STRIDE * rng.random() * high
    street.fill(upright(x, z, limbs), np.array([trousers, trousers, shirt, shirt, shirt]) * _LIMB_TONES, PERSON)
    heads = discs(x, high * np.array([0.93, 0.89]), z, high * np.array([0.13, 0.118]))
    street.fill(heads, [hair, street.pick(_SKINS, 8)], PERSON)


def _car_points(street: Street, x: float, z: float, yaw: float, half: float) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the body, the cabin and the shade: f64[20,3]; and which of the ten faces we see."""
    rng, w, waist = street.rng, street.rng.uniform(0.9, 1), street.rng.uniform(0.92, 1.02)
    bonnet, boot, roof = ((0.95, 0.0, 1.6), (1.0, 0.6, 1.55), (0.5, 0.0, 2.1))[rng.integers(3)]
    rear, front = boot - half * 0.95, half - bonnet
    layers = (
        (0.3, w, -half, half),
        (waist, w * 0.96, -half * 0.97, half * 0.97),
        (waist, w * 0.94, rear, front),
        (roof, w * 0.8, rear + 0.2 + boot * 0.4, front - 0.55),
        (0, w * 1.15, -half * 1.05, half * 1.05),
    )
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([(cos, 0, sin), (0, 1, 0), (-sin, 0, cos)])
    points = np.array([(i * v, y, q) for y, v, a, b in layers for i, q in ((-1, a), (1, a), (1, b), (-1, b))])
    # Where the eye is, as the car sees it: a face turned away is not painted.
    eye_x, _, eye_z = turn @ (street.eye_x - x - street.curve * z * z, 0, -z)
    return points @ turn + (x, 0, z), np.array([eye_z < -half, eye_x > w, eye_z > half, eye_x < -w, True] * 2)


def car(street: Street, x: float, z: float, yaw: float) -> None:
    """A hatchback, a saloon or a van. yaw 0: we see its rear; pi: its front; pi / 2: its side."""
    paint, half = street.pick(PAINTS), street.rng.uniform(1.8, 2.2)
    points, seen = _car_points(street, x, z, yaw, half)
    street.fill(points[None, 16:], street.road * 0.5, ROAD)
    faces = np.concatenate([points[_CORNERS], points[8 + _CORNERS]])
    bright = 1.0 if street.sun_right else 0.82
    tones = np.array([0.95, bright, 0.95, 1.82 - bright, 1.15] * 2)
    colors = np.array([paint, paint * 0.4, _GLASS, _TYRES, (206, 36, 34), (226, 226, 216)])[_PART_COLORS]
    colors[(_PART_COLORS == _LAMP) & (_FACES == 2)] = 250, 244, 214
    parts = np.flatnonzero(seen[_FACES])
    street.fill(_PART_WEIGHTS[parts] @ faces[_FACES[parts]], colors[parts] * tones[_FACES[parts], None], CAR)
    for side in np.flatnonzero(seen[:4] & (False, True, False, True)):
        street.fill(_WHEELS @ faces[side], np.repeat([_TYRES, (170, 172, 174)], 2, 0), CAR)
