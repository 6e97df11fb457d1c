"""Drawn street scenes: the built-in data set, so that a first run needs no download.

A scene is a small world in metres: x to the right, y up, z ahead of the camera. Everything in it is a convex
polygon with a colour and a class, painted from far to near. Colours say little about the class, on purpose: a
network has to look at shapes and at what is around them. Thin things are stout: predictions come at stride 8.
"""

import functools
import itertools

import cv2
import numpy as np

CLASSES = ("road", "lane mark", "pavement", "building", "sky", "tree", "pole", "car", "person")
ROAD, MARK, PAVEMENT, BUILDING, SKY, TREE, POLE, CAR, PERSON = range(len(CLASSES))
IGNORE = 255


def _hex(colors: str) -> np.ndarray:
    """Colours as in "ff8000 0080ff". Returns f64[N,3]."""
    return np.array([list(bytes.fromhex(color)) for color in colors.split()], np.float64)


COLORS = tuple(tuple(map(int, c)) for c in _hex("804080 ffffff f423e8 464646 4682b4 6b8e23 faaa1e 00008e dc143c"))

# Odd, so that the centre of a pixel is a sample: the image averages the samples, the label takes that one.
_SAMPLES = 3
_FAR_M = 70.0
_GRAIN = np.full(256, 4, np.float32)  # the roughness of each class, in grey levels
_GRAIN[:9] = 5, 3, 4, 3, 1, 6, 2, 2, 3

# Zenith and horizon, the light on everything below, the haze in metres, the share of lit windows.
_MOODS = (
    (_hex("5494de c6dcf0"), (1.08, 1.05, 1.0), 260, 0.0),  # noon
    (_hex("96a0ac d6dadc"), (0.90, 0.92, 0.94), 130, 0.1),  # overcast
    (_hex("708cc4 fcce92"), (1.12, 0.96, 0.78), 180, 0.1),  # late afternoon
    (_hex("464880 e88e7a"), (0.92, 0.80, 0.86), 150, 0.5),  # dusk
    (_hex("1a2244 50588a"), (0.66, 0.70, 0.88), 140, 0.6),  # night
    (_hex("c4cacc dee0de"), (0.98, 0.99, 0.99), 90, 0.2),  # mist
    (_hex("e2aab0 f8e2c4"), (1.04, 0.98, 0.95), 160, 0.1),  # dawn
)
_WALLS = _hex("d6c4a4 b05c48 969698 e2dace 787476 c48c60 86a0be a0b696 708660 deb080 606878 ce9c98")
_ROOFS = _hex("9c523e 605a5c 7a463a 546070")
_LEAVES = _hex("487636 62843c 346046 968c3e ba7034 c4a04e 3e6a34")
_PAINTS = _hex("464a50 969a9e e2e4e4 b22c28 2a4a8e 222428 427056 cea846 6e96b0 c4bcaa 787a7c c66c3c")
_CLOTHES = _hex("20348c d02c2c f0eadc 1e8a4c e8a81c 16181e 2c7ad8 a84a1c b43c9c 5a2c92 ea6a2c 1c9aa2")
_SKINS, _HAIRS = _hex("f4d0b2 d6a680 a06c4c 684634"), _hex("28201c 5c3e28 c4a060 84807e 964c28")
_POSTS, _SIGNS = _hex("2c3034 24302c 222630 dcdcd4 e4e0d0 c8ccd0"), _hex("ce2c2c 2c5cb0 e8be32 ececd8 328254")
_GLASS, _BARK = _hex("3a4858 607486 2c3036"), _hex("5c4838 6e6862 463c36")
_STRIPES, _LIGHTS = _hex("e2e2dc e2e2dc d6b254"), _hex("f04a3c f4ba3c 54d678")
_GLOW, _TYRES = _hex("fad682 1a1a1c")

# Limbs as `_upright` takes them, in units of a person's height; then how a stride moves each one's lower end.
_LIMBS = np.array(
    [
        (-0.06, 0.07, 0, -0.06, 0.07, 0.5),
        (0.06, 0.07, 0, 0.06, 0.07, 0.5),
        (-0.06, 0.09, 0, -0.06, 0.06, 0.05),
        (0.06, 0.09, 0, 0.06, 0.06, 0.05),
        (-0.2, 0.05, 0.44, -0.13, 0.05, 0.83),
        (0.2, 0.05, 0.44, 0.13, 0.05, 0.83),
        (0, 0.14, 0.46, 0, 0.17, 0.83),
        (0, 0.17, 0.83, 0, 0.08, 0.87),
        (0, 0.2, 0.24, 0, 0.13, 0.52),
        (0.26, 0.09, 0.28, 0.26, 0.08, 0.46),
    ]
)
_STRIDE = np.array([-1, 1, -1, 1, -0.6, 0.6, 0, 0, 0, 0.6])

# A car: rectangles (s0, s1, t0, t1) on faces 0-4 of the body (rear, right, front, left, top), 5-9 the cabin.
_PAINT, _TRIM, _WINDOW, _TYRE, _LAMP, _PLATE = range(6)
_CAR_PARTS = np.array(
    [(f, s, s + 0.2, -0.5, 0.2, _TYRE) for f in (0, 2) for s in (0.04, 0.76)]
    + [(f, 0, 1, 0, 1, _PAINT) for f in range(5)]
    + [(f, 0, 1, 0, 0.24, _TRIM) for f in (0, 2)]
    + [(f, 0.34, 0.66, 0.08, 0.18, _TRIM) for f in (1, 3)]
    + [(f, s, s + 0.2, 0.5, 0.82, _LAMP) for f in (0, 2) for s in (0.03, 0.77)]
    + [(2, 0.3, 0.7, 0.45, 0.74, _TRIM)]
    + [(f, 0.36, 0.64, 0.14, 0.4, _PLATE) for f in (0, 2)]
    + [(f, 0, 1, 0, 1, _PAINT) for f in range(5, 10)]
    + [(f, 0.07, 0.93, 0.12, 0.86, _WINDOW) for f in (5, 7)]
    + [(f, s, s + 0.41, 0.1, 0.84, _WINDOW) for f in (6, 8) for s in (0.07, 0.52)]
)
_FACES, _RECTS, _PART_COLORS = _CAR_PARTS[:, 0].astype(int), _CAR_PARTS[:, 1:5], _CAR_PARTS[:, 5].astype(int)
_CORNERS = np.array([[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7], [4, 5, 6, 7]])


def _circle(corners, turn=0.0):
    """A regular polygon of radius 1. Returns f64[corners,2]."""
    angle = turn + np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angle), np.sin(angle)], -1)


_ROUND, _LEAF = _circle(12), _circle(6)
_SPOT = _ROUND[None, :, [0, 0, 1]] * (1, 0, 0.5)  # a disc on the ground
_BOARDS = _ROUND, _circle(4), _circle(4, np.pi / 4), _circle(3, np.pi / 2)
_LAMP_ARM = np.array([0.9, 1, -0.1, 0.9, 1, 0.15, 1.5, 0.65, -0.3, 1.5, 0.5, 0.2]).reshape(2, 6)
_LAMP_BULB = np.array([[1.5, 0.6, -0.45, 1.5, 0.6, -0.25]])


def _upright(x, z, rows):
    """Trapezoids facing us; rows (middle, half width, height) of the lower and upper end: f64[N,4,3]."""
    rows = np.asarray(rows, np.float64)
    out = np.full((len(rows), 4, 3), z, np.float64)
    out[..., 0] = x + rows[:, [0, 0, 3, 3]] + rows[:, [1, 1, 4, 4]] * (-1, 1, 1, -1)
    out[..., 1] = rows[:, [2, 2, 5, 5]]
    return out


def _discs(x, y, z, radius, shape=_ROUND):
    """Round things facing us; y an f64[N], the others a number or an f64[N]. Returns f64[N,K,3]."""
    out = np.full((len(y), len(shape), 3), z, np.float64)
    out[..., 0] = np.reshape(x, (-1, 1)) + np.reshape(radius, (-1, 1)) * shape[:, 0]
    out[..., 1] = y[:, None] + np.reshape(radius, (-1, 1)) * shape[:, 1]
    return out


def _ribbon(x0, x1, z0, z1):
    """Rectangles on the ground, a number or an f64[N] each. Returns f64[N,4,3]."""
    out = np.zeros((max(np.size(x0), np.size(z0)), 4, 3))
    out[:, 0, 0] = out[:, 3, 0] = x0
    out[:, 1, 0] = out[:, 2, 0] = x1
    out[:, 0, 2] = out[:, 1, 2] = z0
    out[:, 2, 2] = out[:, 3, 2] = z1
    return out


def _panes(faces, rects):
    """Rectangles (s0, s1, t0, t1) f64[N,4] of faces, as `_on_faces`. Returns f64[N,4,3]."""
    return _on_faces(faces, rects[:, [0, 1, 1, 0]], rects[:, [2, 2, 3, 3]])


def _on_faces(faces, s, t):
    """Points (s, t) f64[N,K] of faces f64[4,3] or f64[N,4,3], corners anticlockwise. Returns f64[N,K,3]."""
    a, b, c, d = (faces[..., i : i + 1, :] for i in range(4))
    s, t = s[..., None], t[..., None]
    low = a + (b - a) * s
    return low + (d + (c - d) * s - low) * t


class _Scene:
    """A street, the camera in it, and the polygons to paint, in order."""

    def __init__(self, rng, h, w):
        self.rng, self.polygons = rng, []
        (self.zenith, self.haze), light, self.haze_m, self.lit = _MOODS[rng.integers(len(_MOODS))]
        self.light = np.array(light)
        self.height, self.width = h * _SAMPLES, w * _SAMPLES
        self.focal = rng.uniform(0.82, 0.98) * (self.height * self.width) ** 0.5
        self.vanishing_x = self.width * rng.uniform(0.43, 0.57)
        self.horizon = self.height * rng.uniform(0.38, 0.49)
        self.kerb = rng.uniform(4.2, 5.4)
        self.wall = self.kerb + rng.uniform(2.8, 5)
        self.eye_x, self.eye_y = self.kerb * rng.uniform(-0.1, 0.45), rng.uniform(1.5, 2.4)
        self.curve = rng.uniform(-0.0035, 0.0035)
        grey = rng.uniform(78, 122)
        self.road = grey + rng.uniform(-9, 9, 3)
        self.pavement = grey + rng.uniform(18, 60) + rng.uniform(-1, 1) * np.array([16, 4, -14])
        self.sun_right = rng.random() < 0.5
        # Drawn at once, and gone round if need be: a hundred small draws cost more than the scene.
        tints = rng.random(128).tolist(), rng.uniform(0.75, 1.15, 128).tolist(), rng.uniform(-1, 1, (128, 3))
        self.tints = itertools.cycle(zip(*tints, strict=True))

    def pick(self, palette, spread=18):
        """One colour of a palette, a little off. Returns f64[3]."""
        which, tone, shift = next(self.tints)
        return palette[int(which * len(palette))] * tone + shift * spread

    def fill(self, polygons, colors, label, glow=False):
        """Adds convex polygons f64[N,K,3] in metres, colours f64[3] or f64[N,3], lit unless they glow."""
        self.polygons.append((polygons, colors if glow else colors * self.light, label))

    def shade(self, x, z, radius):
        """Adds the shade of something that stands there."""
        on_road = abs(x) < self.kerb
        color = (self.road if on_road else self.pavement) * 0.66
        self.fill(_SPOT * radius + (x, 0, z), color, ROAD if on_road else PAVEMENT)

    def project(self, x, y, z):
        """Metres -> samples (u, v). The street bends with the square of the distance."""
        u = self.vanishing_x + self.focal * ((x - self.eye_x) / z + self.curve * z)
        return u, self.horizon + self.focal * (self.eye_y - y) / z

    def paint(self, canvas):
        """Paints all polygons, through the haze, on a canvas u8[H,W,4]: red, green, blue and the class."""
        counts = np.repeat(*zip(*((p.shape[1], len(p)) for p, _, _ in self.polygons), strict=True))
        x, y, z = np.ascontiguousarray(np.concatenate([p.reshape(-1, 3) for p, _, _ in self.polygons]).T)
        ends = np.cumsum(counts)
        starts, colors, row = ends - counts, np.empty((len(counts), 4)), 0
        for polygons, color, label in self.polygons:
            rows = colors[row : row + len(polygons)]
            rows[:, :3], rows[:, 3] = color, label
            row += len(polygons)
        clear = np.exp(z[starts, None] / -self.haze_m)
        colors[:, :3] = np.clip(self.haze + (colors[:, :3] - self.haze) * clear, 0, 255)
        seen, samples = True, []
        for position, size in zip(self.project(x, y, z), (self.width, self.height), strict=True):
            low, high = np.minimum.reduceat(position, starts), np.maximum.reduceat(position, starts)
            seen &= (high > 0) & (low < size) & (high - low > 1)
            samples.append(np.rint(position).astype(np.int32))
        samples = np.stack(samples, -1)
        spans = (a[seen].tolist() for a in (starts, ends, colors))
        for start, end, color in zip(*spans, strict=True):
            cv2.fillConvexPoly(canvas, samples[start:end], color)


def _sky(scene):
    """A canvas u8[H,W,4] of sky, with clouds and perhaps the sun or the moon."""
    rng, horizon = scene.rng, scene.horizon
    rows = np.full((scene.height, 1, 4), SKY, np.float64)
    down = np.clip(np.arange(scene.height) / horizon, 0, 1)[:, None] ** rng.uniform(0.6, 1.6)
    rows[:, 0, :3] = scene.zenith + (scene.haze - scene.zenith) * down
    canvas = np.repeat(rows.astype(np.uint8), scene.width, 1)
    blobs = [((0.1, 0.1), (0.9, 0.6), 1, (0.09, 0.09), 0.75)] if rng.random() < 0.4 else []
    blobs += [((0, 0), (1, 0.8), 5, (0.13, 0.05), rng.uniform(0.2, 0.7)) for _ in range(rng.integers(0, 6))]
    for low, high, puffs, size, white in blobs:
        color = scene.haze * (1 - white) + np.minimum(245 * scene.light, 255) * white
        at, size = rng.uniform(low, high) * (scene.width, horizon), np.array(size) * horizon
        for i in range(puffs):
            middle = (at + (i > 0) * rng.uniform(-1.6, 1.6, 2) * size).astype(int).tolist()
            axes = (size * rng.uniform(0.7, 1.3) ** (i > 0)).astype(int).tolist()
            cv2.ellipse(canvas, middle, axes, 0, 0, 360, (*color, SKY), -1)
    return canvas


def _ground(scene):
    rng, kerb, paving = scene.rng, scene.kerb, scene.pavement
    z = np.array([0.3, *np.geomspace(2, 2.5 * _FAR_M, 15)])
    scene.fill(_ribbon(-90, 90, z[:-1], z[1:]), paving, PAVEMENT)
    joints = 2.5 + 1.3 * np.arange(12)
    scene.fill(_ribbon(-scene.wall, scene.wall, joints, joints + 0.07), paving * 0.84, PAVEMENT)
    scene.fill(_ribbon(-kerb - 0.3, kerb + 0.3, z[:-1], z[1:]), paving * 0.7 + 60, PAVEMENT)
    scene.fill(_ribbon(-kerb, kerb, z[:-1], z[1:]), scene.road, ROAD)
    for _ in range(rng.integers(0, 4)):
        x, near = rng.uniform(-kerb, kerb * 0.6), rng.uniform(3, 20)
        patch = _ribbon(x, x + kerb * rng.uniform(0.2, 0.4), near, near + rng.uniform(0.8, 5))
        scene.fill(patch, scene.road * rng.uniform(0.84, 1.14), ROAD)


def _marks(scene):
    """Dashes, edge lines, a zebra crossing. Returns the z at which the crossing begins, or None."""
    rng, kerb = scene.rng, scene.kerb
    color = scene.pick(_STRIPES, 6) * 0.95 + scene.road * 0.05
    width, pitch = rng.uniform(0.45, 0.6), rng.uniform(4.5, 6.5)
    z = rng.uniform(0.3, 4) + pitch * np.arange(5)
    for x in (0.0,) if rng.random() < 0.7 else (-kerb * 0.36, kerb * 0.36):
        scene.fill(_ribbon(x - width / 2, x + width / 2, z, z + pitch * 0.6), color, MARK)
    if rng.random() < 0.35:
        z = np.array([0.3, *np.geomspace(2, 25, 8)])
        for x in (-kerb + 0.5, kerb - 0.5 - width):
            scene.fill(_ribbon(x, x + width, z[:-1], z[1:]), color, MARK)
    if rng.random() < 0.55:
        return None
    near, step = rng.uniform(4.5, 9), rng.uniform(1.4, 1.8)
    x = np.arange(-kerb + 0.4, kerb - 0.8, step)
    scene.fill(_ribbon(-kerb, kerb, near - 0.4, near + 4.4), scene.road, ROAD)
    scene.fill(_ribbon(x, x + step * 0.55, near, near + 4), color, MARK)
    return near


def _skyline(scene):
    """What closes the street far away: blocks and woods."""
    rng = scene.rng
    for x in rng.uniform(-75, 75, 7):
        z = _FAR_M * rng.uniform(1.1, 1.5)
        if rng.random() < 0.5:
            half = rng.uniform(6, 14)
            block = _upright(x, z, [(0, half, 0, 0, half, rng.uniform(6, 20))])
            scene.fill(block, scene.pick(_WALLS), BUILDING)
        else:
            wood = _discs(x + 5.0 * np.arange(-2, 3), rng.uniform(1, 4, 5), z, rng.uniform(4, 6, 5))
            scene.fill(wood, scene.pick(_LEAVES), TREE)


@functools.cache
def _facade(columns, storeys, shop):
    """Centres of the windows on a face, a shop's panes, its awning's stripes: f64[N,4] each, for `_panes`."""
    cells = np.arange(shop * columns, columns * storeys)[:, None]
    column, storey, half = cells % columns, cells // columns, np.arange(2 * columns * shop)[:, None] / 2
    centres = np.hstack([column + 0.5, column + 0.5, storey + 0.52, storey + 0.52])
    panes = half[::2] + [0.1, 0.9, 0.1, 0.66] - half[::2] * [0, 0, 1, 1]
    stripes = half + [0, 0.5, 0.7, 0.98] - half * [0, 0, 1, 1]
    return tuple(rects / [columns, columns, storeys, storeys] for rects in (centres, panes, stripes))


def _building(scene, side, z, length, free_end):
    rng, x, far, dark = scene.rng, side * scene.wall, z + length, scene.lit > 0.4
    if abs(scene.project(x, 0, far)[0] * 2 - scene.width) > scene.width:
        return
    storeys, deep, shop = int(rng.integers(2, 6)), rng.uniform(6, 9), int(rng.random() < 0.5)
    high, inner = storeys * rng.uniform(2.6, 3.2), x + side * deep
    wall, glass, frame = scene.pick(_WALLS), scene.pick(_GLASS, 10), scene.pick(_PAINTS)
    street = np.array([(x, 0, z), (x, 0, far), (x, high, far), (x, high, z)])
    end = np.array([(x, 0, z), (inner, 0, z), (inner, high, z), (x, high, z)])
    if storeys < 5 and rng.random() < 0.7:
        ridge, top = (x + inner) / 2, high + rng.uniform(2, 3.5)
        eaves, low = x - side * 0.3, high - 0.2
        slope = np.array([[(ridge, top, z), (ridge, top, far), (eaves, low, far), (eaves, low, z)]])
        scene.fill(slope, scene.pick(_ROOFS), BUILDING)
        scene.fill(np.array([[(x, high, z), (inner, high, z), (ridge, top, z)]]), wall * 0.85, BUILDING)
    half_s, half_t = rng.uniform(0.19, 0.36), rng.uniform(0.21, 0.33)
    for face, metres in ((street, length), (end, deep)):
        tone = 1.05 if (face is street) == ((side > 0) != scene.sun_right) else 0.82
        scene.fill(face[None], wall * tone, BUILDING)
        if face is end and not free_end:
            continue
        columns = max(1, int(metres / 2.6))
        centres, panes, stripes = _facade(columns, storeys, shop)
        window = np.array([-half_s / columns, half_s / columns, -half_t / storeys, half_t / storeys])
        if z < 22:
            scene.fill(_panes(face, centres + window * 1.25), (wall * 0.4 + frame * 0.6) * tone, BUILDING)
        colors = np.where(rng.random((len(centres), 1)) < scene.lit, _GLOW, glass * tone * scene.light)
        scene.fill(_panes(face, centres + window), colors, BUILDING, glow=True)
        if shop:
            scene.fill(_panes(face, panes), _GLOW if dark else glass, BUILDING, glow=dark)
            scene.fill(_panes(face, stripes[::2]), frame * tone, BUILDING)
            scene.fill(_panes(face, stripes[1::2]), (wall * 0.3 + 165) * tone, BUILDING)


def _tree(scene, x, z):
    rng, leaf = scene.rng, scene.pick(_LEAVES, 10)
    kind, high = rng.random(), rng.uniform(4.2, 7.2)
    scene.shade(x, z, 1.3)
    if kind < 0.2:
        bush = _discs(x + rng.uniform(-0.9, 0.9, 6), rng.uniform(0.4, 1, 6), z, rng.uniform(0.5, 0.75, 6))
        return scene.fill(bush, leaf * rng.uniform(0.8, 1.15, (6, 1)), TREE)
    scene.fill(_upright(x, z, [(0, 0.25, 0, 0, 0.18, high * 0.6)]), scene.pick(_BARK, 8), TREE)
    if kind < 0.4:
        tier = np.arange(4.0)
        base = high * (0.18 + 0.2 * tier)
        rows = np.stack([0 * tier, 1.7 - 0.33 * tier, base, 0 * tier, 0 * tier, base + high * 0.34], -1)
        return scene.fill(_upright(x, z, rows), leaf * (0.72 + 0.16 * tier[:, None]), TREE)
    u, v = rng.uniform(-1, 1, (2, 24 if z < 18 else 9))
    v.sort()
    tone = rng.uniform(0.68, 1.12, len(v)) + 0.25 * v
    radii = high * rng.uniform(0.15, 0.21, len(v) // 3)
    crown = _discs(x + u[::3], high * (0.68 + 0.17 * v[::3]), z, radii)
    scene.fill(crown, leaf * (0.88 + 0.22 * v[::3, None]), TREE)
    leaves = _discs(x + 1.3 * u, high * (0.68 + 0.24 * v), z, rng.uniform(0.14, 0.3), _LEAF)
    return scene.fill(leaves, leaf * tone[:, None], TREE)


def _pole(scene, x, z):
    """A street lamp, a sign or a traffic light."""
    rng, color, kind = scene.rng, scene.pick(_POSTS, 10), scene.rng.integers(3)
    half, inward, lit = rng.uniform(0.22, 0.29), -np.sign(x), scene.lit > 0.4
    high = rng.uniform(*((5.2, 6.6), (2.5, 3.1), (3.2, 3.8))[kind])
    scene.shade(x, z, 0.5)
    shaft = [(0, half, 0, 0, half, high), (-half * 0.6, half * 0.4, 0, -half * 0.6, half * 0.4, high)]
    shaft += [(0, half * 1.7, 0, 0, half * 1.4, 0.5)]
    scene.fill(_upright(x, z, shaft), color * [[0.85], [1.2], [0.75]], POLE)
    if kind == 0:
        towards, up = [inward, 1, 1, inward, 1, 1], [0, 0, high, 0, 0, high]
        scene.fill(_upright(x, z, _LAMP_ARM * towards + up), color * 0.8, POLE)
        bulb = _GLOW if lit else np.full(3, 210.0)
        scene.fill(_upright(x, z, _LAMP_BULB * towards + up), bulb, POLE, glow=lit)
    elif kind == 1:
        sizes = rng.uniform(0.6, 0.75) * np.array([1, 0.72, 0.3])
        board = _discs(x, np.full(3, high), z, sizes, _BOARDS[rng.integers(4)])
        scene.fill(board, np.array([scene.pick(_SIGNS, 12), scene.pick(_SIGNS, 12), color * 0.6]), POLE)
    else:
        scene.fill(_upright(x, z, [(0, 0.42, high - 1.3, 0, 0.42, high + 0.2)]), color * 0.45, POLE)
        hues = _LIGHTS * np.where(np.arange(3) == rng.integers(3), 1, 0.3)[:, None]
        scene.fill(_discs(x, high - np.array([0.1, 0.55, 1.0]), z, 0.19), hues, POLE, glow=True)


def _person(scene, x, z):
    """Someone who walks, stands or waits."""
    rng, high = scene.rng, scene.rng.uniform(1.3, 1.95)
    shirt, trousers, hair = scene.pick(_CLOTHES), scene.pick(_CLOTHES), scene.pick(_HAIRS, 8)
    scene.shade(x, z, 0.45)
    dice = rng.random(4).tolist()
    limbs = _LIMBS * high
    limbs[:, [1, 4]] *= 1.2
    limbs[:, 0] += _STRIDE * 0.12 * dice[0] * high
    worn = [0, 1, 2, 3, 4, 5, 6, 7] + [8] * (dice[1] < 0.3) + [9] * (dice[2] < 0.3)
    tones = np.array([1, 0.85, 0.4, 0.4, 0.82, 0.82, 1, 1.05, 1, 0.8])[:, None]
    colors = np.array([trousers] * 4 + [shirt] * 4 + [trousers, shirt]) * tones
    scene.fill(_upright(x, z, limbs[worn]), colors[worn], PERSON)
    face = hair if dice[3] < 0.4 else scene.pick(_SKINS, 8)
    heads = _discs(x, high * np.array([0.945, 0.91]), z, high * np.array([0.108, 0.092]))
    scene.fill(heads, np.array([hair, face]), PERSON)


def _car(scene, x, z, yaw):
    """A hatchback, a saloon or a van. yaw 0: we see its rear; pi: its front; pi / 2: its side."""
    rng, paint, glass = scene.rng, scene.pick(_PAINTS), scene.pick(_GLASS, 10)
    w, half, waist = rng.uniform(0.86, 0.95), rng.uniform(1.8, 2.2), rng.uniform(0.88, 1)
    bonnet, boot, roof = ((0.95, 0.0, 1.5), (1.0, 0.6, 1.45), (0.5, 0.0, 2.1))[rng.integers(3)]
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([(cos, 0, sin), (0, 1, 0), (-sin, 0, cos)])
    rear, front = boot - half * 0.95, half - bonnet
    layers = (
        (0.3, w, -half, half),
        (waist, w * 0.96, -half * 0.97, half * 0.97),
        (waist, w * 0.94, rear, front),
        (roof, w * 0.8, rear + 0.2 + boot * 0.4, front - 0.55),
        (0, w * 1.1, -half * 1.05, half * 1.05),
    )
    points = np.array([(i * v, y, q) for y, v, a, b in layers for i, q in ((-1, a), (1, a), (1, b), (-1, b))])
    points = points @ turn + (x, 0, z)
    scene.fill(points[None, 16:], scene.road * 0.5, ROAD)
    faces = np.concatenate([points[_CORNERS], points[8 + _CORNERS]])
    # Where the eye is, as the car sees it: a face turned away is not painted.
    eye_x, _, eye_z = turn @ (scene.eye_x - x - scene.curve * z * z, 0, -z)
    seen = np.array([eye_z < -half, eye_x > w, eye_z > half, eye_x < -w, True] * 2)
    bright = 1.0 if scene.sun_right else 0.78
    tones = np.array([0.92, bright, 0.95, 1.78 - bright, 1.15] * 2)
    colors = np.array([paint, paint * 0.5, glass, _TYRES, (206, 36, 34), (226, 226, 216)])[_PART_COLORS]
    colors[(_PART_COLORS == _LAMP) & (_FACES == 2)] = 250, 244, 214
    parts = np.flatnonzero(seen[_FACES])
    scene.fill(_panes(faces[_FACES[parts]], _RECTS[parts]), colors[parts] * tones[_FACES[parts], None], CAR)
    for side in [i for i in (1, 3) if seen[i]]:
        radii = np.repeat([0.42, 0.36, 0.2], 2)[:, None]
        s = np.tile([[0.2], [0.79]], (3, 1)) + radii * _ROUND[:, 0] / (2 * half)
        wheels = _on_faces(faces[side], s, 0.06 + radii * _ROUND[:, 1] / (waist - 0.3))
        scene.fill(wheels, np.repeat([paint * 0.4, _TYRES, (150, 152, 154)], 2, 0), CAR)


def _furnish(scene, zebra_z):
    """What stands and moves in the street. Returns (distance, draw function, its arguments), far to near."""
    rng, kerb, wall = scene.rng, scene.kerb, scene.wall
    things, taken = [], []

    def put(draw, x, z, radius, *more):
        if all((x - a) ** 2 + (z - b) ** 2 > (radius + r) ** 2 for a, b, r in taken):
            taken.append((x, z, radius))
            things.append((z, draw, (x, z, *more)))

    if zebra_z:
        for x in rng.uniform(-kerb, kerb, rng.integers(0, 4)):
            put(_person, x, zebra_z + rng.uniform(0.5, 3.5), 0.5)
        taken += [(x, zebra_z + 2, 2.6) for x in np.arange(-kerb, kerb + 1, 2)]
    for side in (-1, 1):
        z, free_end = rng.uniform(2, 8), True
        while z < _FAR_M:
            length, built = rng.uniform(8, 16), rng.random() < 0.8
            if built:
                # Sorted by its far end: whatever stands in front of its wall is painted after it.
                things.append((z + length, _building, (side, z, length, free_end)))
            else:
                put(_tree, side * (wall + 2), z + length / 2, 1)
            z, free_end = z + length, not built
        near = 5 + 3 * (side < 0)
        for z in near + rng.uniform((0, 4), (3, 9)):
            put(_pole, side * (kerb + 0.7), z, 0.6)
        for z in near + rng.uniform(0, 7, 4):
            put(_person, side * rng.uniform(kerb + 0.5, wall - 0.4), z, 0.5)
        for z in near + rng.uniform(0, 20, rng.integers(1, 5)):
            put(_tree, side * rng.uniform(kerb + 0.9, wall), z, 1)
        for z in near + 1 + 5.2 * np.flatnonzero(rng.random(4) < 0.5) + rng.uniform(0, 3):
            put(_car, side * (kerb - 1.15), z, 2.3, np.pi * rng.integers(2) + rng.uniform(-0.05, 0.05))
        for z in rng.uniform(7, 28, 2):
            put(_car, side * kerb * 0.3, z, 2.3, np.pi * (side < 0) + rng.uniform(-0.1, 0.1))
    if rng.random() < 0.25:
        yaw = np.pi * (rng.integers(2) - 0.5) + rng.uniform(-0.3, 0.3)
        put(_car, rng.uniform(-2, 2), rng.uniform(9, 16), 2.3, yaw)
    for z in rng.uniform(5, 11, rng.integers(0, 3)):
        put(_person, rng.uniform(-kerb, kerb), z, 0.6)
    return sorted(things, key=lambda thing: -thing[0])


def _develop(rng, image, label):
    """What a camera does: a soft lens, uneven light, white balance, gain, grain. Returns u8[H,W,3]."""
    h, w = label.shape
    image = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.3, 0.65)).astype(np.float32)
    light = rng.uniform(0.9, 1.1, (3, 5, 1)) * rng.uniform(0.9, 1.25) * rng.uniform(0.92, 1.08, 3)
    image *= cv2.resize(light.astype(np.float32), (w, h))
    noise = np.frombuffer(rng.bytes(h * w), np.int8).reshape(h, w) / np.float32(128)
    image += (noise * _GRAIN[label])[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_scene(seed: int, index: int, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One street, a pure function of its arguments: (image, label).

    size_hw  height and width in pixels, 32 or more each
    Returns  image u8[H,W,3] RGB (0..255), label u8[H,W] (0..8, or 255 on our own bonnet)
    """
    rng = np.random.default_rng((seed, index))
    scene = _Scene(rng, *size_hw)
    canvas = _sky(scene)
    _ground(scene)
    zebra_z = _marks(scene)
    _skyline(scene)
    for _, draw, where in _furnish(scene, zebra_z):
        draw(scene, *where)
    scene.paint(canvas)
    if rng.random() < 0.3:
        middle, axes = (scene.width // 2, scene.height), (int(scene.width * 0.62), int(scene.height * 0.06))
        color = np.clip(scene.pick(_PAINTS) * scene.light, 0, 255)
        cv2.ellipse(canvas, middle, axes, 0, 0, 360, (*color, IGNORE), -1)
    label = np.ascontiguousarray(canvas[_SAMPLES // 2 :: _SAMPLES, _SAMPLES // 2 :: _SAMPLES, 3])
    image = cv2.resize(canvas, size_hw[::-1], interpolation=cv2.INTER_AREA)[..., :3]
    return _develop(rng, image, label), label
