"""Every configuration key with its default and unit."""

from ml_collections import ConfigDict, FieldReference

from ddrnet_jax.errors import UserError


class ConfigError(UserError):
    """The configuration cannot be used; the message says which key, what was given and what is expected."""


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
