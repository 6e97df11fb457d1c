"""Drawn scenes: reproducible, every class there, and not to be solved by colour alone."""

import time

import numpy as np
import pytest

from ddrnet_jax.data.scenes.scenes import CLASSES, COLORS, IMAGE_CLASSES, draw_scene, image_class

SIZE_HW = (128, 256)
IGNORE = 255


@pytest.fixture(scope="module")
def drawn():
    """100 scenes: images u8[100,H,W,3] and labels u8[100,H,W]."""
    images, labels = zip(*(draw_scene(0, i, SIZE_HW) for i in range(100)), strict=True)
    return np.stack(images), np.stack(labels)


def test_classes_have_distinct_colours():
    assert CLASSES == ("road", "lane mark", "pavement", "building", "sky", "tree", "pole", "car", "person")
    assert len(set(COLORS)) == len(CLASSES)
    assert all(isinstance(value, int) and 0 <= value <= 255 for color in COLORS for value in color)


def test_scene_is_a_function_of_seed_and_index():
    image, label = draw_scene(3, 7, SIZE_HW)
    again, label_again = draw_scene(3, 7, SIZE_HW)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    for other in ((3, 8), (4, 7), (7, 3)):
        assert (draw_scene(*other, SIZE_HW)[1] != label).mean() > 0.05


def test_global_random_state_is_neither_read_nor_moved():
    np.random.seed(0)
    image, _ = draw_scene(0, 0, (64, 64))
    after = np.random.get_state()[1].copy()
    np.random.seed(0)
    np.testing.assert_array_equal(after, np.random.get_state()[1])
    np.random.seed(1)
    np.testing.assert_array_equal(image, draw_scene(0, 0, (64, 64))[0])


@pytest.mark.parametrize("size_hw", [SIZE_HW, (97, 131), (32, 32), (200, 40), (40, 200)])
def test_any_size(size_hw):
    for index in range(6):
        image, label = draw_scene(1, index, size_hw)
        assert image.shape == (*size_hw, 3)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous
        assert label.shape == size_hw
        assert label.dtype == np.uint8
        assert label.flags.c_contiguous
        assert set(np.unique(label)) <= {*range(len(CLASSES)), IGNORE}


def test_the_class_of_a_scene_names_the_objects_that_take_more_room_than_usual():
    assert len(set(IMAGE_CLASSES)) == 16
    usual = {"tree": 0.045, "pole": 0.023, "car": 0.038, "person": 0.013}
    seen = []
    for index in range(200):
        _, label = draw_scene(0, index, (128, 128))
        large = [name for name, share in usual.items() if (label == CLASSES.index(name)).sum() > share * 128 * 128]
        seen.append(image_class(label))
        assert IMAGE_CLASSES[seen[-1]] == (" and ".join(large) or "none")
    counts = np.bincount(seen, minlength=16)
    assert counts.max() < 0.2 * len(seen)  # the most frequent class alone is not worth much
    assert (counts > 0).sum() >= 15


def test_every_class_covers_enough(drawn):
    _, labels = drawn
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert share[: len(CLASSES)].min() >= 0.01, dict(zip(CLASSES, share, strict=False))
    assert share[IGNORE] < 0.03


def test_image_and_label_share_their_edges(drawn):
    """The image changes most across the edges of the label itself, not of a label moved sideways."""
    images, labels = drawn
    step = np.abs(np.diff(images.astype(int), axis=2)).sum(-1)
    at_edge = [step[np.diff(np.roll(labels, by, 2), axis=2) != 0].mean() for by in (-2, -1, 0, 1, 2)]
    assert np.argmax(at_edge) == 2
    assert at_edge[2] > 1.5 * max(at_edge[0], at_edge[4])


def test_drawing_is_quick():
    times = []
    for index in range(20):
        start = time.perf_counter()
        draw_scene(5, index, SIZE_HW)
        times.append(time.perf_counter() - start)
    # A few milliseconds on an idle core; the limit is for a machine busy with other work.
    assert np.median(times) < 0.1


def test_colour_and_row_do_not_solve_it(drawn):
    """Logistic regression on a pixel's colour and row stays below what the demo must show it has learnt."""
    rng = np.random.default_rng(0)
    features, labels = _pixels(*drawn, rng, per_scene=100)
    mean, std = features.mean(0), features.std(0)
    weights = _fit((features - mean) / std, labels)
    held_out = [draw_scene(0, 10_000 + i, SIZE_HW) for i in range(60)]
    features, labels = _pixels(*map(np.stack, zip(*held_out, strict=True)), rng, per_scene=4000)
    predicted = np.argmax(_with_bias((features - mean) / std) @ weights, 1)
    assert 0.1 < _miou(labels, predicted) < 0.35


def _pixels(images, labels, rng, per_scene):
    """Sampled labelled pixels: features f64[N,4] (red, green, blue, row) and labels u8[N]."""
    n, h, w = labels.shape
    scene = np.repeat(np.arange(n), per_scene)
    row, column = rng.integers(0, h, scene.size), rng.integers(0, w, scene.size)
    features = np.column_stack([images[scene, row, column].astype(np.float64), row])
    label = labels[scene, row, column]
    return features[label != IGNORE], label[label != IGNORE]


def _with_bias(features):
    return np.column_stack([features, np.ones(len(features))])


def _fit(features, labels):
    """Multinomial logistic regression by accelerated gradient descent. Returns f64[F+1,C]."""
    x, targets = _with_bias(features), np.eye(len(CLASSES))[labels]
    rate = 2 / np.linalg.norm(x.T @ x / len(x), 2)  # one over a bound on the curvature
    weights = previous = np.zeros((x.shape[1], len(CLASSES)))
    for step in range(600):
        ahead = weights + step / (step + 3) * (weights - previous)
        logits = x @ ahead
        p = np.exp(logits - logits.max(1, keepdims=True))
        gradient = x.T @ (p / p.sum(1, keepdims=True) - targets) / len(x)
        previous, weights = weights, ahead - rate * gradient
    assert np.abs(gradient).max() < 1e-3, "not converged"
    return weights


def _miou(labels, predicted):
    c = len(CLASSES)
    confusion = np.bincount(labels.astype(int) * c + predicted, minlength=c * c).reshape(c, c)
    hits = np.diag(confusion)
    return np.mean(hits / (confusion.sum(0) + confusion.sum(1) - hits))
