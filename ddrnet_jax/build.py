"""A config's meaning, resolved once: config -> Experiment. Below this nobody takes a config, but for its classes."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ddrnet_jax.bucket import is_address
from ddrnet_jax.config import ConfigError
from ddrnet_jax.config import files as config_files
from ddrnet_jax.data import pseudo_labels
from ddrnet_jax.data.records.array_records import ArrayRecords
from ddrnet_jax.data.samples import Source
from ddrnet_jax.data.sets import layouts
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sets.of_config import dataset_spec
from ddrnet_jax.data.sets.specs import DatasetSpec
from ddrnet_jax.data.sources import FolderPairs, SceneImages, Scenes
from ddrnet_jax.data.transforms import Augment, AugmentImage, CentreCrop
from ddrnet_jax.models.ddrnet import DDRNet, builder

# None: compute in the parameters' own type, which is float32 (and float64 in tests of exactness).
_COMPUTE_DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config's meaning, as plain values. Settings are the arguments of the function that each is for.

    config         JSON values, as a run keeps them
    network        nnx.Rngs -> the network
    train_source   () -> random access to the training samples; raises ConfigError or DataError if they are not there
    eval_source    the same of the held-out samples
    pseudo_source  the same of pseudo-labelled samples, which are pseudo_share of those trained on; None: there are none
    augment        what a training sample goes through
    eval_transform what a sample goes through before it is evaluated, None: nothing
    schedule       settings of training.optimizer.learning_rate_schedule
    class_balance  False; True: the loss has the class weights of the data set; "auto": those counted in its labels
    distill        {"teacher", "weight", "temperature"}: see training.distillation
    optimizer      settings of training.optimizer.make_optimizer
    view           settings of evaluation.views.View
    """

    config: dict
    task: str
    variant: str
    dtype: str
    seed: int
    batch_size: int
    total_steps: int
    log_every_steps: int
    trackers: tuple[str, ...]
    init_from: str
    fresh_head: bool
    data_name: str
    data_root: str
    storage: str
    train_split: str
    eval_split: str
    num_threads: int
    crop_hw: tuple[int, int]
    scale_range: tuple[float, float]
    spec: DatasetSpec
    network: Callable[[nnx.Rngs], DDRNet]
    train_source: Callable[[], Source]
    eval_source: Callable[[], Source]
    pseudo_source: Callable[[], Source] | None
    pseudo_share: float
    augment: Augment | AugmentImage
    eval_transform: CentreCrop | None
    loss: dict
    distill: dict
    class_balance: bool | str
    aux_weight: float
    schedule: dict
    optimizer: dict
    ema_decay: float
    accumulate_steps: int
    remat: bool
    view: dict
    eval_batch_size: int
    eval_every_steps: int
    checkpoint_every_steps: int
    checkpoint_keep: int

    def class_weights(self, counted: Sequence[float] | None = None) -> Sequence[float] | None:
        """The class weights that are asked for: None, the data set's, or those counted from its training labels.

        Raises ConfigError if the data set has none of its own.
        """
        if not self.class_balance:
            return None
        if self.class_balance == "auto":
            return counted
        if self.spec.class_weights is None:
            raise ConfigError(
                f"config.loss.class_weights: True given, but data set {self.data_name!r} has no class weights "
                "of its own; 'auto' counts them"
            )
        return self.spec.class_weights


def experiment(config: ConfigDict) -> Experiment:
    """The experiment of a valid config. Raises DataError if `config.data` describes no data set."""
    spec, d, o = dataset_spec(config), config.data, config.optimizer
    loss, optimizer = config.loss.to_dict(), o.to_dict()
    schedule = {
        "schedule": optimizer.pop("schedule"),
        "peak": optimizer.pop("learning_rate"),
        "total_steps": config.total_steps,
        **{key: optimizer.pop(key) for key in ("warmup_steps", "poly_power", "step_fractions")},
    }
    return Experiment(
        config=config_files.to_json(config),
        task=config.task,
        variant=config.model.variant,
        dtype=config.model.dtype,
        seed=config.seed,
        batch_size=config.batch_size,
        total_steps=config.total_steps,
        log_every_steps=config.log_every_steps,
        trackers=config.trackers,
        init_from=config.init_from,
        fresh_head=config.init_head == "fresh",
        data_name=d.name,
        data_root=d.root,
        storage=d.storage,
        train_split=d.train_split,
        eval_split=d.eval_split,
        num_threads=d.num_threads,
        crop_hw=d.crop_hw,
        scale_range=d.scale_range,
        spec=spec,
        network=_network(config, spec.num_classes),
        train_source=lambda: _source(config, d.train_split, spec, is_training=True),
        eval_source=lambda: _source(config, d.eval_split, spec, is_training=False),
        pseudo_source=(lambda: _pseudo_labelled(config, spec)) if d.pseudo_root else None,
        pseudo_share=d.pseudo_share,
        augment=_augment(config),
        eval_transform=_eval_transform(config),
        class_balance=loss.pop("class_weights"),
        aux_weight=loss.pop("aux_weight"),
        loss=loss,
        distill=config.distill.to_dict(),
        schedule=schedule,
        accumulate_steps=optimizer.pop("accumulate_steps"),
        optimizer=optimizer,
        ema_decay=config.ema_decay,
        remat=config.model.remat,
        view={key: config.eval[key] for key in ("scales", "flip", "average", "size_hw", "tile_hw")},
        eval_batch_size=config.eval.batch_size,
        eval_every_steps=config.eval.every_steps,
        checkpoint_every_steps=config.checkpoint.every_steps,
        checkpoint_keep=config.checkpoint.keep,
    )


def sources_to_prepare(config: ConfigDict) -> dict[str, FolderPairs | Scenes]:
    """{split: source} of every split that the config names, from its folders.

    Raises ConfigError, or DataError if a split is not there.
    """
    d = config.data
    if d.name == "scenes":
        return {d.train_split: _scenes(config, is_training=True), d.eval_split: _scenes(config, is_training=False)}
    _check_root(config)
    if d.storage != "folder":
        raise ConfigError(f"config.data.storage: {d.storage!r} given, but prepare_data reads folders")
    splits = dict.fromkeys((*layouts.split_parts(d.train_split), *layouts.split_parts(d.eval_split)))
    return {split: FolderPairs(d.root, split, dataset_spec(config)) for split in splits}


def _network(config: ConfigDict, num_classes: int) -> Callable[[nnx.Rngs], DDRNet]:
    m = config.model
    dtype = _COMPUTE_DTYPES[m.dtype]
    return builder(m.variant, task=config.task, num_classes=num_classes, aux_head=m.aux_head, dtype=dtype)


def _source(config: ConfigDict, split: str, spec: DatasetSpec, *, is_training: bool) -> Source:
    _check_root(config)
    if config.data.storage == "array_record":
        return ArrayRecords(config.data.root, split, spec)
    if config.data.name == "scenes":
        return _scenes(config, is_training=is_training)
    return FolderPairs(config.data.root, split, spec)


def _pseudo_labelled(config: ConfigDict, spec: DatasetSpec) -> Source:
    """Reads what --mode pseudo_label wrote: train ids, whatever the values of the data set's own labels."""
    root = config.data.pseudo_root
    made_for = pseudo_labels.classes_of(root)
    if made_for != spec.classes:
        raise ConfigError(
            f"config.data.pseudo_root: {root} has masks of the classes {', '.join(made_for)}, the data set "
            f"{config.data.name!r} has {', '.join(spec.classes)}"
        )
    ours = dataclasses.replace(folder_spec(spec.classes), value_range=spec.value_range)
    return FolderPairs(root, pseudo_labels.SPLIT, ours)


def _check_root(config: ConfigDict) -> None:
    if not config.data.root and (config.data.name != "scenes" or config.data.storage != "folder"):
        raise ConfigError(
            "config.data.root: '' given, expected the folder of the data set; give --config with --config.data.root=DIR"
        )
    is_read = is_address(config.data.root) and config.data.storage == "array_record"
    if "://" in config.data.root and not is_read:
        raise ConfigError(
            f"config.data.root: {config.data.root!r} given, expected a folder; mount the bucket (gcsfuse) and give it. "
            "Of a bucket itself ArrayRecords alone are read: --mode prepare_data --output gs://BUCKET/FOLDER, "
            "data.storage='array_record'"
        )


def _scenes(config: ConfigDict, *, is_training: bool) -> Scenes:
    kind = SceneImages if config.task == "classification" else Scenes
    count, seed = (config.data.scenes_train, 0) if is_training else (config.data.scenes_eval, 1)
    return kind(count, seed=seed, size_hw=config.data.scenes_hw)


def _augment(config: ConfigDict) -> Augment | AugmentImage:
    kind = AugmentImage if config.task == "classification" else Augment
    return kind(**{key: config.data[key] for key in kind.SETTINGS})


def _eval_transform(config: ConfigDict) -> CentreCrop | None:
    """A classifier sees the centre of an image, a segmenter all of it."""
    return CentreCrop(config.eval.size_hw or config.data.crop_hw) if config.task == "classification" else None
