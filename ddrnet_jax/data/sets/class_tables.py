"""The long tables of the public data sets: what their label ids and colours are called, and which class each is."""

# (label id, name, train id or None, RGB). Source: the label definition of the Cityscapes release.
# Id -1 (license plate) is never drawn into the labelIds images.
CITYSCAPES_LABELS = (
    (0, "unlabeled", None, (0, 0, 0)),
    (1, "ego vehicle", None, (0, 0, 0)),
    (2, "rectification border", None, (0, 0, 0)),
    (3, "out of roi", None, (0, 0, 0)),
    (4, "static", None, (0, 0, 0)),
    (5, "dynamic", None, (111, 74, 0)),
    (6, "ground", None, (81, 0, 81)),
    (7, "road", 0, (128, 64, 128)),
    (8, "sidewalk", 1, (244, 35, 232)),
    (9, "parking", None, (250, 170, 160)),
    (10, "rail track", None, (230, 150, 140)),
    (11, "building", 2, (70, 70, 70)),
    (12, "wall", 3, (102, 102, 156)),
    (13, "fence", 4, (190, 153, 153)),
    (14, "guard rail", None, (180, 165, 180)),
    (15, "bridge", None, (150, 100, 100)),
    (16, "tunnel", None, (150, 120, 90)),
    (17, "pole", 5, (153, 153, 153)),
    (18, "polegroup", None, (153, 153, 153)),
    (19, "traffic light", 6, (250, 170, 30)),
    (20, "traffic sign", 7, (220, 220, 0)),
    (21, "vegetation", 8, (107, 142, 35)),
    (22, "terrain", 9, (152, 251, 152)),
    (23, "sky", 10, (70, 130, 180)),
    (24, "person", 11, (220, 20, 60)),
    (25, "rider", 12, (255, 0, 0)),
    (26, "car", 13, (0, 0, 142)),
    (27, "truck", 14, (0, 0, 70)),
    (28, "bus", 15, (0, 60, 100)),
    (29, "caravan", None, (0, 0, 90)),
    (30, "trailer", None, (0, 0, 110)),
    (31, "train", 16, (0, 80, 100)),
    (32, "motorcycle", 17, (0, 0, 230)),
    (33, "bicycle", 18, (119, 11, 32)),
)

# By train id. Source: HRNet-Semantic-Segmentation, and with it every published DDRNet recipe.
CITYSCAPES_CLASS_WEIGHTS = (
    *(0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023),
    *(0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507),
)

# The 32 colours of the original CamVid labels -> the 11 classes that papers report on, as SegNet grouped them.
CAMVID_COLORS = {
    (64, 128, 64): ("Animal", "pedestrian"),
    (192, 0, 128): ("Archway", "building"),
    (0, 128, 192): ("Bicyclist", "bicyclist"),
    (0, 128, 64): ("Bridge", "building"),
    (128, 0, 0): ("Building", "building"),
    (64, 0, 128): ("Car", "car"),
    (64, 0, 192): ("CartLuggagePram", "pedestrian"),
    (192, 128, 64): ("Child", "pedestrian"),
    (192, 192, 128): ("Column_Pole", "pole"),
    (64, 64, 128): ("Fence", "fence"),
    (128, 0, 192): ("LaneMkgsDriv", "road"),
    (192, 0, 64): ("LaneMkgsNonDriv", "road"),
    (128, 128, 64): ("Misc_Text", "sign"),
    (192, 0, 192): ("MotorcycleScooter", "bicyclist"),
    (128, 64, 64): ("OtherMoving", "car"),
    (64, 192, 128): ("ParkingBlock", "pavement"),
    (64, 64, 0): ("Pedestrian", "pedestrian"),
    (128, 64, 128): ("Road", "road"),
    (128, 128, 192): ("RoadShoulder", "pavement"),
    (0, 0, 192): ("Sidewalk", "pavement"),
    (192, 128, 128): ("SignSymbol", "sign"),
    (128, 128, 128): ("Sky", "sky"),
    (64, 128, 192): ("SUVPickupTruck", "car"),
    (0, 0, 64): ("TrafficCone", "pole"),
    (0, 64, 64): ("TrafficLight", "sign"),
    (192, 64, 128): ("Train", "car"),
    (128, 128, 0): ("Tree", "tree"),
    (192, 128, 192): ("Truck_Bus", "car"),
    (64, 0, 64): ("Tunnel", "building"),
    (192, 192, 0): ("VegetationMisc", "tree"),
    (0, 0, 0): ("Void", None),
    (64, 192, 0): ("Wall", "building"),
}

# Labels 1..182 of COCO-Stuff in their order: 91 things, then 91 kinds of stuff. Source: labels.txt of the release.
_COCO_STUFF_NAMES = """
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
COCO_STUFF_LABELS = tuple(name.strip() for name in _COCO_STUFF_NAMES.split(","))

# Labels (1-based) that COCO never annotated: 182 - 11 = 171 classes.
COCO_STUFF_UNUSED = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91))
