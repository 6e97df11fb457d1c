"""Labels in JSON: regions pixel by pixel, against a slow count of crossings and COCO's own run lengths."""

import base64
import json

import cv2
import numpy as np
import pytest

from ddrnet_jax.data import polygons
from ddrnet_jax.data.errors import DataError

VALUES = {"background": 0, "road": 1, "car": 2, "__ignore__": 255}


def is_inside(points, x, y):
    """A point is inside if a ray to its left crosses the outline an odd number of times."""
    crossings = 0
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if (y0 <= y) != (y1 <= y):
            crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) < x
    return crossings % 2 == 1


def test_pixels_are_inside_by_their_centres():
    rng = np.random.default_rng(0)
    for _ in range(40):
        points = rng.uniform(-6, 22, (rng.integers(3, 9), 2))  # also beyond the image, also crossing itself
        expected = [[is_inside(points, x + 0.5, y + 0.5) for x in range(16)] for y in range(12)]
        np.testing.assert_array_equal(polygons.fill(points, (12, 16)), expected)


def test_polygons_that_share_an_edge_share_no_pixel():
    corner, middle = np.array([(0, 0), (20, 0), (3, 15)]), np.array([(20, 0), (20, 15), (3, 15)])
    rest = np.array([(0, 0), (3, 15), (0, 15)])
    total = sum(polygons.fill(points.astype(float), (15, 20)).astype(int) for points in (corner, middle, rest))
    assert (total == 1).all()


def labelme(*shapes, **changes):
    return json.dumps({"shapes": shapes, "imageHeight": 6, "imageWidth": 8} | changes).encode()


def box(label, left, top, right, bottom):
    return {"label": label, "points": [[left, top], [right, top], [right, bottom], [left, bottom]]}


def decode(data, values=VALUES):
    return polygons.decode(data, "a.json", values)


def test_the_later_region_lies_on_top_and_the_rest_is_background():
    ids = decode(labelme(box("road", 0, 3, 8, 6), box("car", 2, 2, 4, 4), box("__ignore__", 7, 0, 8, 1)))
    expected = np.zeros((6, 8), np.uint8)
    expected[3:], expected[2:4, 2:4], expected[0, 7] = 1, 2, 255
    np.testing.assert_array_equal(ids, expected)
    without_background = {"road": 0, "car": 1}
    assert decode(labelme(box("car", 0, 0, 1, 1)), without_background).tolist()[0][:2] == [1, 255]
    with_a_mark = b"\xef\xbb\xbf" + labelme(box("road", 0, 0, 8, 6))
    assert (decode(with_a_mark) == 1).all()


def test_shapes_of_labelme():
    rectangle = {"label": "car", "shape_type": "rectangle", "points": [[5, 4], [1, 2]]}
    assert (decode(labelme(rectangle)) == 2).sum() == 4 * 2
    circle = {"label": "car", "shape_type": "circle", "points": [[4, 3], [4, 5]]}
    assert (decode(labelme(circle)) == 2).sum() == 12  # of radius 2
    pixels = np.array([[1, 0], [1, 1]], np.uint8)
    png = base64.b64encode(cv2.imencode(".png", pixels)[1]).decode()
    mask = {"label": "car", "shape_type": "mask", "points": [[3, 1], [5, 3]], "mask": png}
    np.testing.assert_array_equal(decode(labelme(mask))[1:3, 3:5], 2 * pixels)


def coco(segmentation, **changes):
    image = {"id": 7, "file_name": "a.jpg", "height": 6, "width": 8}
    annotation = {"image_id": 7, "category_id": 3, "segmentation": segmentation} | changes
    document = {"images": [image], "annotations": [annotation], "categories": [{"id": 3, "name": "car"}]}
    return json.dumps(document).encode()


def test_regions_of_coco():
    expected = np.zeros((6, 8), np.uint8)
    expected[1:5, 2:7] = 2
    two_parts = [[2, 1, 5, 1, 5, 5, 2, 5], [4, 1, 7, 1, 7, 5, 4, 5]]
    np.testing.assert_array_equal(decode(coco(two_parts)), expected)
    expected[3, 4] = 0
    runs = [13, 4, 2, 4, 2, 2, 1, 1, 2, 4, 2, 4, 7]
    np.testing.assert_array_equal(decode(coco({"size": [6, 8], "counts": runs})), expected)
    text = "=4200NOO13005"  # of the same pixels, by pycocotools 2.0
    np.testing.assert_array_equal(decode(coco({"size": [6, 8], "counts": text})), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.json: not JSON"),
        (b"[" * 100_000, "a.json: not JSON"),
        (b"[1]", "JSON of another kind"),
        (b"{}", "JSON of another kind, expected labelme's"),
        (b'{"shapes": []}', "has no 'imageHeight'; export it again"),
        (labelme(imageWidth=10**12), "an image of 1000000000000x6"),
        (labelme(box("bus", 0, 0, 1, 1)), "class 'bus' is in neither data.classes nor data.ignore_values"),
        (labelme({"label": "car", "shape_type": "line", "points": [[0, 0], [5, 5]]}), "the line 'car' has no area"),
        (labelme({"label": "car", "points": [[0, 0], [5, 5]]}), "the polygon 'car' has no area"),
        (labelme({"label": "car", "points": [[0, 0], [5, float("nan")], [1, 1]]}), "a point of 'car' is no number"),
        (labelme({"label": "car", "points": "x"}), "not a label in JSON that can be read"),
        (labelme({"label": "car", "shape_type": "mask", "points": [[7, 5], [9, 9]], "mask": "?"}), "a mask that is"),
        (coco([]), "an annotation without segmentation"),
        (coco([[1, 2, 3]]), "not a label in JSON that can be read"),
        (coco({"size": [6, 8], "counts": [1, 2]}), "run lengths that do not fill the image"),
        (coco({"size": [6, 8], "counts": "zzzz"}), "run lengths that do not fill the image"),
        (coco([[0, 0, 1, 0, 1, 1]], category_id=9), "has no 9"),
    ],
)
def test_other_json_is_refused_in_one_line(data, message):
    with pytest.raises(DataError, match=message) as caught:
        decode(data)
    assert str(caught.value).startswith("a.json: ")
    assert "\n" not in str(caught.value)
