"""ImageNet classification, to start a segmenter from: the paper's recipe, and a longer one.

python -m ddrnet_jax.main --config configs/imagenet.py --workdir runs/imagenet --config.data.root=DIR
python -m ddrnet_jax.main --config configs/imagenet.py:long --workdir runs/imagenet_long --config.data.root=DIR

DIR holds train/ and val/ with one folder a class (n01440764, ...); 23 and 39 with --config.model.variant=23.
A segmenter starts from it with --config.init_from=runs/imagenet.

Not run by us. The paper trained on 4 x 2080Ti [R]. By arithmetic alone, one accelerator that achieves 20 TFLOP/s needs
11 h (23-slim), 41 h (23), 74 h (39) for 100 epochs, `long` three times as much; 11 h are 3400 images/s to decode.

Top-1 error to expect (224x224 centre of 256):
  paper  29.8 (23-slim), 24.1 (23), 22.7 (39)  [repo]
  long   26.3 (23-slim)  [repo]; its learning rate, weight decay and augmentation were never published. Ours are the
         paper's, without what such recipes often add and this project does not have (colour jitter, RandAugment, mixup,
         random erasing): expect an error between the two.

[repo] README and issues of the official repository; [R] recalled from the paper, not checked.
"""

from ddrnet_jax.config import ConfigError, base

_STEPS_AN_EPOCH = 1_281_167 // 256


def get_config(recipe="paper"):
    if recipe not in ("paper", "long"):
        raise ConfigError(f"recipe {recipe!r} given, expected 'paper' or 'long'")
    config = base()
    config.task = "classification"
    config.batch_size = 256  # [R]
    config.total_steps = 100 * _STEPS_AN_EPOCH  # [R]
    config.log_every_steps = 100
    config.model.aux_head = False
    config.data.name = "imagenet"
    config.data.root = "data/imagenet"
    config.data.crop_hw = (224, 224)  # [R]; of 0.08 to 1 of the image, the usual random crop [repo issue 30]
    config.data.num_threads = 16
    config.optimizer.learning_rate = 0.1  # [R]
    config.optimizer.nesterov = True  # [R]; the code that the author points to has it off [repo issue 30]
    config.optimizer.weight_decay = 1e-4  # [R]
    config.optimizer.schedule = "step"  # divided by 10 after epochs 30, 60 and 90; momentum 0.9 [R]
    config.loss.name = "cross_entropy"
    config.loss.label_smoothing = 0.1  # in the code that the author points to [repo issue 30]; not in the paper [R]
    config.eval.every_steps = 5 * _STEPS_AN_EPOCH
    config.eval.batch_size = 256
    config.checkpoint.every_steps = _STEPS_AN_EPOCH
    if recipe == "long":  # batch 256, warm-up, cosine, 300 epochs, label smoothing [repo]
        config.total_steps = 300 * _STEPS_AN_EPOCH
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup_steps = 5 * _STEPS_AN_EPOCH  # ours
    return config
