"""The loss of a classifier over the images of the global batch."""

import jax
import optax


def class_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Mean cross entropy of images, each of one class.

    logits           f32[B,C]
    labels           i32[B] (0..C-1); all of them are classes, 255 too
    label_smoothing  probability (0..1) given to all classes alike
    Returns          f32[]
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()
