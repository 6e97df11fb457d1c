"""The classes of COCO-Stuff, which its two releases number differently."""

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.data.sets.specs import distinct_colors

# Labels 1..182 of COCO-Stuff in their order: 91 things, then 91 kinds of stuff. Source: labels.txt of the release.
_NAMES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack,
    umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat,
    baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl,
    banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
    mirror, dining table, window, desk, toilet, door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven,
    toaster, sink, refrigerator, blender, book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush,
    banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other,
    ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence,
    floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other,
    grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net,
    paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof,
    rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other,
    table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone,
    wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
"""
_LABELS = tuple(name.strip() for name in _NAMES.split(","))

# Labels (1-based) that COCO never annotated: 182 - 11 = 171 classes.
_UNUSED = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91))


def about(first_label: int, unlabelled: int) -> dict:
    """Classes, colours and values, as a DatasetSpec takes them.

    first_label  what the files of a release call label 1
    unlabelled   what they call no label
    """
    labels = enumerate(_LABELS, start=1)
    used = {label: title for label, title in labels if label not in _UNUSED}
    return {
        "classes": tuple(used.values()),
        "colors": distinct_colors(len(used)),
        "values": {
            unlabelled: IGNORE,
            **{label - 1 + first_label: IGNORE for label in _UNUSED},
            **{label - 1 + first_label: train_id for train_id, label in enumerate(used)},
        },
    }
