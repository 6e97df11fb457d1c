"""Every configuration key with its unit, and the checks on their values."""

import difflib

from ml_collections import ConfigDict, FieldReference

from ddrnet_jax.errors import UserError
from ddrnet_jax.models.variants import VARIANTS
from ddrnet_jax.text import cut


class ConfigError(UserError):
    """The configuration cannot be used; the message says which key, what was given and what is expected."""


# The data sets that have classes of images, and what may be trained on them; all others have masks alone.
_TASKS = {"imagenet": ("classification",), "scenes": ("segmentation", "classification")}
_MOST_SIDE = 2**15  # pixels of an image or crop, as OpenCV resizes them
_MOST = 1e15  # of any number in a config
WORDS = {"loss.class_weights": "auto"}  # that a key of True or False takes too
DATA_SETS = ("scenes", "camvid", "cityscapes", "coco_stuff_10k", "coco_stuff_164k", "imagenet", "folder")
TRACKERS = ("wandb", "mlflow")


def base() -> ConfigDict:
    """All keys with their defaults; a config file starts from this and assigns to existing keys only."""
    config = ConfigDict()
    config.seed = 0  # of initial weights, order of samples and augmentation
    config.task = "segmentation"  # "segmentation"; "classification" = one class an image, to pretrain
    config.batch_size = 12  # images a step, over all devices and processes
    config.total_steps = 120_000  # of batch_size images each
    config.init_from = ""  # a checkpoint, .pth or .safetensors file whose weights the run starts from; "" = random
    config.init_head = "load"  # "load"; "fresh" = without the heads of init_from, for another number of classes
    config.log_every_steps = 50  # steps whose mean makes one line of metrics
    config.trackers = ()  # that get what TensorBoard gets: "wandb", "mlflow", each an extra of its name

    config.model = ConfigDict()
    config.model.variant = "23_slim"  # "23_slim", "23", "39": one of models/variants.py
    config.model.aux_head = True  # a second head on the high branch, for training only
    config.model.dtype = "float32"  # of the computation: "float32", "bfloat16"; parameters stay float32
    config.model.remat = True  # gradients compute batch norm and ReLU again instead of keeping them: less memory

    config.data = ConfigDict()
    config.data.name = "scenes"  # one of DATA_SETS; "folder" = your own
    config.data.root = ""  # folder of the data set; drawn scenes need none
    config.data.storage = "folder"  # "folder"; "array_record" = root holds what prepare_data or TFDS wrote
    config.data.train_split = "train"  # name of the split, as its folder is called; "train+val" joins two
    config.data.eval_split = "val"  # likewise; never trained on
    config.data.pseudo_root = ""  # folder that --mode pseudo_label wrote, trained on beside train_split; "" = none
    config.data.pseudo_share = 0.5  # of the training samples, from pseudo_root
    config.data.crop_hw = (1024, 1024)  # pixels; multiples of 8
    config.data.scale_range = (0.5, 2.0)  # random scale, uniform between the two
    config.data.area_range = (0.08, 1.0)  # classification: share of the image's area that a random crop takes
    config.data.flip = True  # mirror half of the training samples
    config.data.colour = ()  # random brightness, contrast, saturation, hue: largest changes, as (0.125, 0.5, 0.5, 0.1)
    config.data.max_class_share = 1.0  # a crop with more of one class is drawn again, at most ten times; 1 = never
    config.data.rare_class_share = 0.0  # of the crops, around a class of the image: rare ones as often as others
    config.data.num_threads = 2  # that decode and augment
    config.data.scenes_hw = (128, 256)  # pixels of a drawn scene
    config.data.scenes_train = 2000  # drawn scenes to train on
    config.data.scenes_eval = 100  # drawn scenes to evaluate on
    config.data.jpeg_quality = 0  # prepare_data: PNG images become JPEGs of it, 1..100; 0 = stored as they are
    config.data.value_range = ()  # raw (low, high) that become 0 and 255, of images of 16 bits or float; () = 16 bits
    config.data.classes = ()  # folder: names of the classes by train id; imagenet: of its folders, () = all 1000
    config.data.colors = ()  # folder: RGB of each class in colour masks; () = masks hold indices
    config.data.label_values = ()  # folder: raw index of each class; () = 0, 1, 2, ...
    config.data.ignore_values = (255,)  # folder: raw indices, RGB triples or (in JSON) names that count nowhere
    config.data.images = "images/{split}"  # folder: where a split's images are, below data.root; a folder or a pattern
    config.data.labels = "labels/{split}"  # likewise labels: "masks/{stem}_L.png"; x.json without {stem} is COCO's
    config.data.lists = ""  # folder: lists of a split's images, like "lists/{split}.txt"; "" = all that are there
    config.data.val_share = 0.0  # folder: share of the images, by their names, that is eval_split; the rest trains

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # "sgd", "adamw", "muon"
    config.optimizer.learning_rate = 0.01  # peak, for this batch_size
    config.optimizer.momentum = 0.9  # share of the last update kept; of adamw and muon, the first beta
    config.optimizer.nesterov = False  # look ahead along the momentum
    config.optimizer.trunk_lr_factor = 1.0  # of the learning rate, for all layers but dappm and the heads
    config.optimizer.weight_decay = 5e-4  # on every parameter, before the momentum; the others: beside it, 0.05
    config.optimizer.decay_norms_and_biases = True  # False: weight decay on convolution and linear kernels only
    config.optimizer.schedule = "poly"  # "poly", "cosine", "step"
    config.optimizer.poly_power = 0.9  # of "poly": (1 - step / total_steps) ** power
    config.optimizer.step_fractions = (0.3, 0.6, 0.9)  # of total_steps, where "step" divides by 10
    config.optimizer.warmup_steps = 0  # linear, from 0
    config.optimizer.accumulate_steps = 1  # parts of a batch, one after another; batch norm and the loss see a part

    config.loss = ConfigDict()
    config.loss.name = "ohem"  # "cross_entropy", "ohem", "dice_edge"; both heads
    config.loss.aux_weight = 0.4  # of the auxiliary head's loss
    config.loss.class_weights = FieldReference(False, field_type=object)  # True: the data set's own; "auto": counted
    config.loss.ohem_threshold = 0.9  # pixels whose true class is more probable than this are left out
    config.loss.ohem_min_kept_fraction = 1 / 24  # of all pixels of the batch, kept whatever the threshold
    config.loss.dice_weight = 1.0  # dice_edge: of Dice, beside cross entropy
    config.loss.edge_weight = 0.5  # dice_edge: share of the cross entropy that is a mean over edges only
    config.loss.edge_size = 5  # dice_edge: pixels, odd; a window of it with two labels makes its centre an edge
    config.loss.label_smoothing = 0.0  # probability given to all classes alike

    config.distill = ConfigDict()
    config.distill.teacher = ""  # to imitate: checkpoint, .pth, .safetensors, or a folder of logits; "" = none
    config.distill.weight = 3.0  # of the imitation, beside the loss of the labels
    config.distill.temperature = 4.0  # that the logits of both are divided by

    config.ema_decay = 0.0  # moving average of the weights, used wherever the model is; 0 = off

    config.eval = ConfigDict()
    config.eval.every_steps = 5000  # 0 = only after the last step
    config.eval.batch_size = 4  # images a forward pass, over all devices
    config.eval.scales = (1.0,)  # of the image, in evaluation only; what is seen in several is averaged
    config.eval.flip = False  # average with the mirrored image, in evaluation only
    config.eval.average = "logits"  # of scales and mirror images; "probabilities" = as mmsegmentation does
    config.eval.tile_hw = None  # pixels the network sees at a time, in overlapping tiles; None = all of an image
    config.eval.size_hw = None  # pixels the network sees; None = each image at its own size, a classifier data.crop_hw

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 5000  # 0 = only where the run is evaluated
    config.checkpoint.keep = 2  # latest steps kept beside the best
    return config.lock()


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for an unknown or missing key, a value of the wrong type or out of range."""
    _check_keys_and_types(config, base(), "")
    for name, key in (
        ("model.variant", VARIANTS),
        ("model.dtype", ("float32", "bfloat16")),
        ("task", ("segmentation", "classification")),
        ("init_head", ("load", "fresh")),
        ("data.name", DATA_SETS),
        ("data.storage", ("folder", "array_record")),
        ("optimizer.name", ("sgd", "adamw", "muon")),
        ("optimizer.schedule", ("poly", "cosine", "step")),
        ("loss.name", ("cross_entropy", "ohem", "dice_edge")),
        ("eval.average", ("logits", "probabilities")),
    ):
        _require(config, name, lambda v, key=key: v in key, f"one of {', '.join(map(repr, key))}")
    _require(
        config,
        "trackers",
        lambda v: all(v.count(name) == 1 and name in TRACKERS for name in v),
        f"a tuple of {', '.join(map(repr, TRACKERS))}, each at most once",
    )
    _require(config, "total_steps", lambda v: v < 2**31, "below 2**31")
    for name in ("total_steps", "log_every_steps", "checkpoint.keep"):
        _require(config, name, lambda v: v >= 1, "at least 1")
    for name, most in (  # what no machine holds ends here
        ("batch_size", 2**16),
        ("eval.batch_size", 2**16),
        ("data.num_threads", 1024),
        ("data.scenes_train", 10**6),
        ("data.scenes_eval", 10**6),
    ):
        _require(config, name, lambda v, most=most: 1 <= v <= most, f"at least 1, at most {most}")
    for name in ("eval.every_steps", "checkpoint.every_steps", "optimizer.warmup_steps", "loss.aux_weight"):
        _require(config, name, lambda v: v >= 0, "at least 0")
    for name in ("optimizer.learning_rate", "optimizer.poly_power", "distill.temperature"):
        _require(config, name, lambda v: v > 0, "above 0")
    for name in ("ema_decay", "optimizer.momentum", "loss.label_smoothing"):
        _require(config, name, lambda v: 0 <= v < 1, "at least 0 and below 1")
    for name in ("optimizer.weight_decay", "optimizer.trunk_lr_factor", "loss.dice_weight", "distill.weight"):
        _require(config, name, lambda v: v >= 0, "at least 0")
    _require(config, "loss.edge_size", lambda v: v >= 1 and v % 2 == 1, "an odd number of pixels")
    _require(config, "data.max_class_share", lambda v: 0 < v <= 1, "above 0 and at most 1")
    _require(config, "data.pseudo_share", lambda v: 0 < v < 1, "above 0 and below 1")
    for name in ("loss.ohem_threshold", "loss.ohem_min_kept_fraction", "loss.edge_weight", "data.rare_class_share"):
        _require(config, name, lambda v: 0 <= v <= 1, "between 0 and 1")
    _require(config, "seed", lambda v: 0 <= v < 2**32, "at least 0 and below 2**32")
    first = min(config.optimizer.step_fractions, default=1)
    _require(
        config,
        "optimizer.step_fractions",
        lambda v: all(0 < f < 1 for f in v) and list(v) == sorted(set(v)),
        "increasing fractions between 0 and 1",
    )
    if config.optimizer.schedule == "step":
        _require(
            config,
            "optimizer.warmup_steps",
            lambda v: v < first * config.total_steps,
            f"below the first of optimizer.step_fractions, {first} of total_steps={config.total_steps}",
        )
    _require(config, "data.crop_hw", _is_size_of_8, "two multiples of 8, (height, width)")
    _require(
        config, "data.scenes_hw", lambda v: len(v) == 2 and 32 <= min(v) <= max(v) <= 8192, "two integers of 32 to 8192"
    )
    _require(
        config,
        "data.scale_range",
        lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 100,
        "(low, high), 0 < low <= high <= 100",
    )
    _require(
        config,
        "data.colour",
        lambda v: len(v) in (0, 4) and all(_is_number(r) and 0 <= r <= 1 for r in v),
        "() or four ranges from 0 to 1: brightness, contrast, saturation, hue",
    )
    _require(
        config, "eval.scales", lambda v: v and 0 < min(v) <= max(v) <= 10, "one or more scales above 0, at most 10"
    )
    for name in ("eval.size_hw", "eval.tile_hw"):
        _require(config, name, lambda v: v is None or _is_size_of_8(v), "None or two multiples of 8, (height, width)")
    _require(
        config, "optimizer.warmup_steps", lambda v: v < config.total_steps, f"below total_steps={config.total_steps}"
    )
    _require(config, "batch_size", lambda v: v >= 2, "at least 2: the global branch of DAPPM normalises over the batch")
    _require(
        config,
        "optimizer.accumulate_steps",
        lambda v: v >= 1 and config.batch_size % v == 0 and config.batch_size // v >= 2,
        f"at least 1, in equal parts of 2 or more images of batch_size={config.batch_size}",
    )
    _require(
        config, "data.area_range", lambda v: len(v) == 2 and 0 < v[0] <= v[1] <= 1, "(low, high), 0 < low <= high <= 1"
    )
    tasks = _TASKS.get(config.data.name, ("segmentation",))
    expected = f"{' or '.join(map(repr, tasks))} for data.name={config.data.name!r}"
    _require(config, "task", lambda v: v in tasks, expected)
    if config.task == "classification":
        _check_classification(config)
    _require(config, "data.val_share", lambda v: 0 <= v < 1, "at least 0 and below 1")
    _require(
        config,
        "data.value_range",
        lambda v: not v or (len(v) == 2 and all(map(_is_number, v)) and -1e9 < v[0] < v[1] < 1e9),
        "(low, high), low < high, or ()",
    )
    _require(config, "data.jpeg_quality", lambda v: 0 <= v <= 100, "between 0 and 100")


def _check_classification(config: ConfigDict) -> None:
    _require(config, "model.aux_head", lambda v: not v, "False: a classifier has no auxiliary head")
    _require(
        config, "loss.name", lambda v: v == "cross_entropy", "'cross_entropy': a classifier has no pixels to choose"
    )
    _require(config, "loss.class_weights", lambda v: not v, "False: class weights are for pixels")
    _require(
        config,
        "data.colour",
        lambda v: len(v) in (0, 4) and all(_is_number(r) and 0 <= r <= 1 for r in v),
        "() or four ranges from 0 to 1: brightness, contrast, saturation, hue",
    )
    _require(
        config, "eval.scales", lambda v: tuple(v) == (1.0,), "(1.0,): a classifier is evaluated on one centre crop"
    )
    _require(config, "data.max_class_share", lambda v: v == 1, "1: an image's class is no share of its pixels")
    _require(config, "data.rare_class_share", lambda v: v == 0, "0: an image's class is no share of its pixels")
    _require(config, "data.pseudo_root", lambda v: not v, "'': pseudo-labels are masks")
    _require(config, "distill.teacher", lambda v: not v, "'': a teacher is for segmenters")
    _require(config, "eval.flip", lambda v: not v, "False: a classifier is evaluated on one centre crop")
    _require(config, "eval.tile_hw", lambda v: v is None, "None: a classifier is evaluated on one centre crop")


def _check_keys_and_types(config: ConfigDict, reference: ConfigDict, prefix: str) -> None:
    for key in config:
        if key not in reference:
            raise ConfigError(f"config.{prefix}{key}: unknown key{suggestion(reference, key)}")
    for key, default in reference.items():
        name = f"{prefix}{key}"
        if key not in config:
            raise ConfigError(f"config.{name}: missing; start the config from ddrnet_jax.config.base()")
        value = config[key]
        if isinstance(default, ConfigDict):
            if not isinstance(value, ConfigDict):
                raise ConfigError(f"config.{name}: {_shown(value)} given, expected a group of keys")
            _check_keys_and_types(value, default, f"{name}.")
        elif not all(map(_is_within_reach, _leaves(value))):
            expected = f"finite numbers below {_MOST:g}, text without a NUL"
            raise ConfigError(f"config.{name}: {_shown(value)} given, expected {expected}")
        elif not _has_type_of(value, default) and (name not in WORDS or value != WORDS[name]):
            raise ConfigError(f"config.{name}: {_shown(value)} given, expected {what_fits(default, name)}")


def _leaves(value):
    return (leaf for v in value for leaf in _leaves(v)) if isinstance(value, tuple) else (value,)


def _is_within_reach(leaf) -> bool:
    """True of what computations and file names can hold: nothing beyond 64 bits may reach them."""
    if isinstance(leaf, str):
        return "\0" not in leaf
    return not isinstance(leaf, int | float) or -_MOST < leaf < _MOST


def _shown(value) -> str:
    """A value as a message shows it."""
    try:
        return cut(repr(value), 80)
    except Exception:  # a number of thousands of digits, an object of the user's own class
        return f"a {type(value).__name__}"


def _has_type_of(value, default) -> bool:
    if default is None:
        return value is None or isinstance(value, tuple)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, tuple):
        numbers = default and not isinstance(default[0], str) and default != (255,)
        whole = bool(numbers) and isinstance(default[0], int)
        kinds = int if whole else (int, float)
        return isinstance(value, tuple) and (not numbers or all(isinstance(v, kinds) for v in value))
    return isinstance(value, type(default))


def what_fits(default: object, name: str) -> str:
    """The values that the key `name` of this default takes, in words, with an example."""
    if default is None:
        return "None or (height, width), like (512, 1024)"
    names = {bool: "True or False", int: "an integer", float: "a number", str: "a string", tuple: "a tuple"}
    word = f" or {WORDS[name]!r}" if name in WORDS else ""
    return f"{names[type(default)]}{word}, like {default!r}"


def _require(config: ConfigDict, key: str, is_valid, expected: str) -> None:
    value = config
    for name in key.split("."):
        value = value[name]
    if not is_valid(value):
        raise ConfigError(f"config.{key}: {_shown(value)} given, expected {expected}")


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size_of_8(value) -> bool:
    return len(value) == 2 and all(isinstance(n, int) and 0 < n <= _MOST_SIDE and n % 8 == 0 for n in value)


def suggestion(group: object, name: str) -> str:
    """The key of the group that a misspelt name may have meant, as the end of a message."""
    close = difflib.get_close_matches(name, list(group) if isinstance(group, ConfigDict) else [], 1)
    return f"; did you mean {close[0]!r}?" if close else ""
