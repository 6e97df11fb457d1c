"""mIoU against an independent slow implementation, and its corner cases."""

import numpy as np
import pytest

from ddrnet_jax.evaluation import metrics


def slow_iou(labels, predictions, num_classes):
    """IoU by counting sets of pixels, one class at a time."""
    values = []
    is_labelled = labels != 255
    for c in range(num_classes):
        truth = {tuple(i) for i in np.argwhere(is_labelled & (labels == c))}
        guess = {tuple(i) for i in np.argwhere(is_labelled & (predictions == c))}
        values.append(len(truth & guess) / len(truth | guess) if truth | guess else None)
    return values


@pytest.mark.parametrize("seed", range(5))
def test_miou_equals_counting_sets(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 2, 4, 255], (3, 9, 8)).astype(np.int32)  # class 3 is never labelled
    predictions = rng.integers(0, 5 if seed % 2 else 3, labels.shape).astype(np.int32)
    counts = sum(np.asarray(metrics.confusion(a, b, 6), np.int64) for a, b in zip(labels, predictions, strict=True))
    result = metrics.scores(counts)
    expected = slow_iou(labels, predictions, 6)
    for ours, theirs in zip(result.iou, expected, strict=True):
        assert np.isnan(ours) if theirs is None else ours == pytest.approx(theirs)
    present = [v for v in expected if v is not None]
    assert result.miou == pytest.approx(sum(present) / len(present))
    is_labelled = labels != 255
    assert result.pixel_accuracy == pytest.approx((labels == predictions)[is_labelled].mean())


def test_labels_of_no_class_count_in_no_image():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 7, 254, 255, -1], (3, 40)).astype(np.int32)
    predictions = rng.integers(0, 3, labels.shape).astype(np.int32)
    expected = np.zeros((3, 3, 3), int)
    for i, (truths, guesses) in enumerate(zip(labels, predictions, strict=True)):
        for truth, guess in zip(truths, guesses, strict=True):
            if truth in (0, 1, 2):
                expected[i, truth, guess] += 1
    np.testing.assert_array_equal(metrics.confusion_by_image(labels, predictions, 3), expected)


def test_a_class_predicted_but_never_labelled_counts_zero():
    counts = np.array([[6, 2], [0, 0]])
    result = metrics.scores(counts)
    assert result.iou.tolist() == [0.75, 0.0]
    assert result.miou == 0.375


def test_counts_beyond_float32_stay_exact():
    counts = np.array([[2**40 + 1, 1], [0, 2**40]])
    result = metrics.scores(counts)
    assert result.confusion[0, 0] == 2**40 + 1
    assert result.pixel_accuracy == (2**41 + 1) / (2**41 + 2)


def test_nothing_labelled_is_zero_not_nan():
    result = metrics.scores(np.zeros((3, 3), np.int64))
    assert result.miou == 0
    assert result.pixel_accuracy == 0


def test_table_fits_80_columns_and_dashes_absent_classes():
    counts = np.diag([10, 0, 5])
    text = metrics.scores(counts).table(("road", "a class with a very long name, longer than most", "car"))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[2].split()[-2:] == ["-", "0.00%"]
    assert "mIoU" in lines[-1]
    assert "100.00" in lines[-1]
