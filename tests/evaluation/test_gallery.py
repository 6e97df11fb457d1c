"""The gallery keeps the worst, the best, the first and the asked-for images, whatever their order."""

import numpy as np
import pytest

from ddrnet_jax.evaluation.gallery import Gallery, short_name


def show(gallery, name, hits, misses):
    """One image of two classes: `hits` pixels of class 0 right, `misses` taken for class 1."""
    counts = np.array([[hits, misses], [0, 0]])
    image = np.zeros((2, 2, 3), np.uint8)
    gallery({"name": name, "image": image, "label": image[..., 0]}, counts, image[..., 0])


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 40])
def test_worst_and_best_are_ranked_and_share_no_image(count):
    gallery = Gallery()
    hits = np.random.default_rng(count).permutation(count)
    for i in hits:
        show(gallery, f"{i}", int(i), 100)
    names = [str(i) for i in range(count)]  # from the worst to the best
    each = min(4, count // 2)
    assert [seen.name for seen in gallery.worst] == names[: max(each, min(4, (count + 1) // 2))]
    assert [seen.name for seen in gallery.best] == names[::-1][:each]
    assert [seen.name for seen in gallery.first] == [str(i) for i in hits[:3]]
    assert len(gallery.mious) == count
    for i in range(count):  # one class right of `union`, the other predicted and never right
        assert gallery.mious[str(i)] == pytest.approx(i / (i + 100) / 2)


def test_an_image_without_labels_is_neither_worst_nor_best():
    gallery = Gallery()
    show(gallery, "unlabelled", 0, 0)
    show(gallery, "labelled", 5, 5)
    assert [seen.name for seen in gallery.worst] == ["labelled"]
    assert [seen.name for seen in gallery.first] == ["unlabelled", "labelled"]


def test_asked_for_images_are_kept_and_another_evaluation_starts_anew():
    gallery = Gallery(also=["7", "gone"])
    for i in range(20):
        show(gallery, str(i), 10 + i, 5)
    assert list(gallery.by_name) == ["7"]
    gallery.clear()
    assert not gallery.worst + gallery.best + gallery.first
    assert not gallery.by_name
    assert not gallery.mious
    show(gallery, "7", 1, 0)
    assert list(gallery.by_name) == ["7"]


@pytest.mark.parametrize("count", [2, 5, 8, 20])
def test_images_of_equal_scores_are_at_one_end_only(count):
    gallery = Gallery()
    for i in range(count):
        show(gallery, str(i), 5, 5)
    worst, best = ([seen.name for seen in chosen] for chosen in (gallery.worst, gallery.best))
    assert not set(worst) & set(best)
    assert len(set(worst + best)) == min(8, count)


@pytest.mark.parametrize(
    ("name", "root", "expected"),
    [
        ("/data/val/a.png", "/data", "val/a.png"),
        ("/data/val/a.png", "/data/", "val/a.png"),
        ("/data//val/a.png", "/x/../data", "val/a.png"),
        ("here/val/a.png", "./here", "val/a.png"),
        ("/data2/a.png", "/data", "/data2/a.png"),
        ("/a.png", "/", "a.png"),
        ("a.png", "", "a.png"),
    ],
)
def test_names_are_short_below_the_root_only(name, root, expected):
    assert short_name(name, root) == expected
