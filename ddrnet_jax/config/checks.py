"""The checks on a config's values: their types, what each may be, and what fits together."""

import difflib

from ml_collections import ConfigDict

from ddrnet_jax.config.schema import DATA_SETS, TRACKERS, WORDS, ConfigError, base
from ddrnet_jax.models.variants import VARIANTS
from ddrnet_jax.text import cut

# The data sets that have classes of images, and what may be trained on them; all others have masks alone.
_TASKS = {"imagenet": ("classification",), "scenes": ("segmentation", "classification")}
_MOST_SIDE = 2**15  # pixels of an image or crop, as OpenCV resizes them
_MOST = 1e15  # of any number in a config


def validate(config: ConfigDict) -> None:
    """Raises ConfigError for an unknown or missing key, a value of the wrong type or out of range."""
    _check_keys_and_types(config, base(), "")
    _check_choices(config)
    _check_numbers(config)
    _check_sizes_and_ranges(config)
    _check_schedule(config)
    _check_batch(config)
    _check_task(config)


def _check_choices(config: ConfigDict) -> None:
    """Words of which there are a few."""
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


def _check_numbers(config: ConfigDict) -> None:
    """Numbers, each by itself."""
    _require(config, "total_steps", lambda v: v < 2**31, "below 2**31")
    _require(config, "seed", lambda v: 0 <= v < 2**32, "at least 0 and below 2**32")
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
    for name in (
        "eval.every_steps",
        "checkpoint.every_steps",
        "optimizer.warmup_steps",
        "optimizer.weight_decay",
        "optimizer.trunk_lr_factor",
        "loss.aux_weight",
        "loss.dice_weight",
        "distill.weight",
    ):
        _require(config, name, lambda v: v >= 0, "at least 0")
    for name in ("optimizer.learning_rate", "optimizer.poly_power", "distill.temperature"):
        _require(config, name, lambda v: v > 0, "above 0")
    for name in ("ema_decay", "optimizer.momentum", "loss.label_smoothing", "data.val_share"):
        _require(config, name, lambda v: 0 <= v < 1, "at least 0 and below 1")
    for name in ("loss.ohem_threshold", "loss.ohem_min_kept_fraction", "loss.edge_weight", "data.rare_class_share"):
        _require(config, name, lambda v: 0 <= v <= 1, "between 0 and 1")
    _require(config, "loss.edge_size", lambda v: v >= 1 and v % 2 == 1, "an odd number of pixels")
    _require(config, "data.max_class_share", lambda v: 0 < v <= 1, "above 0 and at most 1")
    _require(config, "data.pseudo_share", lambda v: 0 < v < 1, "above 0 and below 1")
    _require(config, "data.jpeg_quality", lambda v: 0 <= v <= 100, "between 0 and 100")


def _check_sizes_and_ranges(config: ConfigDict) -> None:
    """Tuples of numbers, each by itself."""
    _require(config, "data.crop_hw", _is_size_of_8, "two multiples of 8, (height, width)")
    for name in ("eval.size_hw", "eval.tile_hw"):
        _require(config, name, lambda v: v is None or _is_size_of_8(v), "None or two multiples of 8, (height, width)")
    _require(
        config, "data.scenes_hw", lambda v: len(v) == 2 and 32 <= min(v) <= max(v) <= 8192, "two integers of 32 to 8192"
    )
    for name, most in (("data.scale_range", 100), ("data.area_range", 1)):
        _require(
            config,
            name,
            lambda v, most=most: len(v) == 2 and 0 < v[0] <= v[1] <= most,
            f"(low, high), 0 < low <= high <= {most}",
        )
    _require(
        config, "eval.scales", lambda v: v and 0 < min(v) <= max(v) <= 10, "one or more scales above 0, at most 10"
    )
    _require(
        config,
        "data.colour",
        lambda v: len(v) in (0, 4) and all(_is_number(r) and 0 <= r <= 1 for r in v),
        "() or four ranges from 0 to 1: brightness, contrast, saturation, hue",
    )
    _require(
        config,
        "data.value_range",
        lambda v: not v or (len(v) == 2 and all(map(_is_number, v)) and -1e9 < v[0] < v[1] < 1e9),
        "(low, high), low < high, or ()",
    )


def _check_schedule(config: ConfigDict) -> None:
    """What the learning rate's steps have to do with each other."""
    _require(
        config,
        "optimizer.step_fractions",
        lambda v: all(0 < f < 1 for f in v) and list(v) == sorted(set(v)),
        "increasing fractions between 0 and 1",
    )
    if config.optimizer.schedule == "step":
        first = min(config.optimizer.step_fractions, default=1)
        _require(
            config,
            "optimizer.warmup_steps",
            lambda v: v < first * config.total_steps,
            f"below the first of optimizer.step_fractions, {first} of total_steps={config.total_steps}",
        )
    _require(
        config, "optimizer.warmup_steps", lambda v: v < config.total_steps, f"below total_steps={config.total_steps}"
    )


def _check_batch(config: ConfigDict) -> None:
    """What a batch and its parts hold."""
    _require(config, "batch_size", lambda v: v >= 2, "at least 2: the global branch of DAPPM normalises over the batch")
    _require(
        config,
        "optimizer.accumulate_steps",
        lambda v: v >= 1 and config.batch_size % v == 0 and config.batch_size // v >= 2,
        f"at least 1, in equal parts of 2 or more images of batch_size={config.batch_size}",
    )


def _check_task(config: ConfigDict) -> None:
    """What can be trained on the data set, and what a classifier leaves out."""
    tasks = _TASKS.get(config.data.name, ("segmentation",))
    expected = f"{' or '.join(map(repr, tasks))} for data.name={config.data.name!r}"
    _require(config, "task", lambda v: v in tasks, expected)
    if config.task == "classification":
        _check_classification(config)


def _check_classification(config: ConfigDict) -> None:
    _require(config, "model.aux_head", lambda v: not v, "False: a classifier has no auxiliary head")
    _require(
        config, "loss.name", lambda v: v == "cross_entropy", "'cross_entropy': a classifier has no pixels to choose"
    )
    _require(config, "loss.class_weights", lambda v: not v, "False: class weights are for pixels")
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
