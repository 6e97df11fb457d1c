"""Cross entropy, OHEM, Dice and cross entropy at edges, over the pixels of the global batch; and of a classifier.

A segmenter's logits come as they are, at stride 8: f32[B,h,w,C]. Those at the size of the labels are not enlarged.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.models.blocks import upsample_x8
from ddrnet_jax.training import softmax_x8


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Mean cross entropy of the labelled pixels, divided by the sum of their class weights.

    logits         f32[B,h,w,C]
    labels         i32[B,H,W] (0..C-1 or 255)
    class_weights  f32[C] or None
    Returns        f32[]; exactly 0 with zero gradients if nothing is labelled.
    """
    logits, labels = _pixel_by_pixel(logits, labels)
    per_pixel = _pixel_losses(logits, labels, label_smoothing)
    weights = _pixel_weights(labels, class_weights, per_pixel.dtype)
    return _safe_ratio((per_pixel * weights).sum(), weights.sum())


def ohem(
    logits: jax.Array,
    labels: jax.Array,
    *,
    threshold: float,
    min_kept_fraction: float,
    class_weights: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Mean cross entropy of the hardest labelled pixels of the global batch.

    logits             f32[B,h,w,C]
    labels             i32[B,H,W] (0..C-1 or 255)
    threshold          a pixel is kept if the probability of its true class is below max(threshold, p_K)
    min_kept_fraction  K, the number always kept, as a fraction of all B*H*W pixels
    class_weights      f32[C] or None; they weigh the kept losses, the mean divides by their number
    Returns            f32[]; exactly 0 with zero gradients if no pixel is kept.
    Source: the reference takes K per GPU (131072 of 3 crops of 1024x1024 = 1/24); here it is over the
    global batch, so that the number of devices changes nothing.
    """
    min_kept = round(min_kept_fraction * labels.size)
    logits, labels = _pixel_by_pixel(logits, labels)
    per_pixel = _pixel_losses(logits, labels, label_smoothing)
    probability = jax.lax.stop_gradient(_true_class_probability(logits, labels))
    limit = hardness_limit(probability, labels != IGNORE, threshold, min_kept)
    is_kept = (labels != IGNORE) & (probability < limit)
    weights = jnp.where(is_kept, _pixel_weights(labels, class_weights, per_pixel.dtype), 0)
    return _safe_ratio((per_pixel * weights).sum(), is_kept.sum().astype(per_pixel.dtype))


def dice_edge(
    logits: jax.Array,
    labels: jax.Array,
    *,
    dice_weight: float = 1.0,
    edge_weight: float = 0.5,
    edge_size: int = 5,
    class_weights: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Cross entropy, part of it over the pixels at edges only, plus Dice: the super-gradients recipe.

    logits         f32[B,h,w,C]
    labels         i32[B,H,W] (0..C-1 or 255)
    dice_weight    of `dice`, beside cross entropy
    edge_weight    share (0..1) of the mean over `edge_pixels`; the rest is the mean over all labelled pixels
    edge_size      pixels, odd
    class_weights  f32[C] or None; they weigh both cross entropies, each divided by its sum of weights, not Dice
    Returns        f32[]; exactly 0 with zero gradients if nothing is labelled.
    Source: super-gradients' recipe. Ignored pixels count in none of the means here. Class weights and label
    smoothing are no part of it: they are off by default and do here what they do in `cross_entropy`.
    """
    logits = _at_labels(logits, labels)
    per_pixel = _pixel_losses(logits, labels, label_smoothing)
    weights = _pixel_weights(labels, class_weights, per_pixel.dtype)
    edge_weights = jnp.where(edge_pixels(labels, edge_size), weights, 0)
    everywhere = _safe_ratio((per_pixel * weights).sum(), weights.sum())
    at_edges = _safe_ratio((per_pixel * edge_weights).sum(), edge_weights.sum())
    return (1 - edge_weight) * everywhere + edge_weight * at_edges + dice_weight * dice(logits, labels)


def dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean over all classes of 1 - Dice, between softmax probabilities and labels, over the global batch.

    logits   f32[B,h,w,C]
    labels   i32[B,H,W] (0..C-1 or 255)
    Returns  f32[] (0..1); exactly 0 with zero gradients if nothing is labelled.
    Source: 1 - (2 sum(p g) + 1) / (sum(p) + sum(g) + 1 + 1e-5) per class, as super-gradients has it, its sums
    over batch and space. A class that no pixel has counts too: it is pushed out of the predictions.
    """
    logits = _at_labels(logits, labels)
    is_labelled = labels != IGNORE
    probability = jax.nn.softmax(_without_gradient_where_ignored(logits, is_labelled))
    probability = jnp.where(is_labelled[..., None], probability, 0)
    is_class = labels[..., None] == jnp.arange(logits.shape[-1])
    pixels = (0, 1, 2)
    overlap = jnp.where(is_class, probability, 0).sum(pixels)
    total = probability.sum(pixels) + is_class.sum(pixels)
    per_class = 1 - (2 * overlap + 1) / (total + 1 + 1e-5)
    return jnp.where(is_labelled.any(), per_class.mean(), 0)


def edge_pixels(labels: jax.Array, size: int) -> jax.Array:
    """bool[B,H,W]: pixels whose `size` x `size` neighbourhood, cut off at the border, has more than one label.

    labels  i32[B,H,W] (0..C-1 or 255); 255 counts as a label, so there is an edge towards ignored areas
    Source: the union over the classes of dilation minus erosion of the one-hot labels with replicated borders,
    as super-gradients has it: some but not all pixels around have the class. No one-hot labels are needed.
    """

    def over_window(values, init, reduce):
        for window in ((1, size, 1), (1, 1, size)):
            values = jax.lax.reduce_window(values, init, reduce, window, (1, 1, 1), "SAME")
        return values

    smallest, largest = (jnp.array(bound, labels.dtype) for bound in (0, IGNORE))
    return over_window(labels, smallest, jax.lax.max) != over_window(labels, largest, jax.lax.min)


def class_cross_entropy(logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Mean cross entropy of images, each of one class.

    logits           f32[B,C]
    labels           i32[B] (0..C-1); all of them are classes, 255 too
    label_smoothing  probability (0..1) given to all classes alike
    Returns          f32[]
    """
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), label_smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()


def hardness_limit(probability: jax.Array, is_labelled: jax.Array, threshold: float, min_kept: int) -> jax.Array:
    """max(threshold, p_sorted[min(min_kept, n - 1)]) over the n labelled pixels, without sorting.

    probability f32[...] (0..1), is_labelled bool[...] -> f32[]
    Source: non-negative floats order like their bit patterns, so the element of a rank is found by
    bisection on the bits, from the threshold to 1; skipped where the threshold alone keeps enough.
    """
    n = is_labelled.sum()
    rank = jnp.minimum(min_kept, n - 1)
    threshold = jnp.asarray(threshold, probability.dtype)
    is_below = is_labelled & (probability <= threshold)
    return jax.lax.cond(
        is_below.sum() > rank,
        lambda: threshold,
        lambda: _element_of_rank(probability, is_labelled, rank, low=threshold),
    )


def _element_of_rank(values: jax.Array, mask: jax.Array, rank: jax.Array, low: jax.Array) -> jax.Array:
    """The element of 0-based `rank` among the masked values, exactly; it is known to lie in low..1."""
    bits_type = jnp.uint64 if values.dtype == jnp.float64 else jnp.uint32
    bits, lowest, highest = (
        jax.lax.bitcast_convert_type(a, bits_type) for a in (values, low, jnp.ones((), values.dtype))
    )

    def narrow(bounds):
        low, high = bounds  # the answer is in low..high
        middle = low + (high - low) // 2
        is_enough = (mask & (bits <= middle)).sum() > rank
        return jnp.where(is_enough, low, middle + 1), jnp.where(is_enough, middle, high)

    answer, _ = jax.lax.while_loop(lambda bounds: bounds[0] < bounds[1], narrow, (lowest, highest))
    return jax.lax.bitcast_convert_type(answer, values.dtype)


def _at_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Logits f32[B,h,w,C] at the size of the labels: f32[B,H,W,C]"""
    return logits if logits.shape[:-1] == labels.shape else upsample_x8(logits, labels.shape[1:])


def _pixel_by_pixel(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(logits, labels) for a loss that asks for no neighbours: at the size of the labels, or as in softmax_x8."""
    if softmax_x8.suits(logits, labels):
        return logits, softmax_x8.in_blocks(labels)
    return _at_labels(logits, labels), labels


def _pixel_losses(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    """The loss of every pixel, in the shape of the labels: f32[..], 0 with zero gradient where it is ignored."""
    if logits.shape[:-1] != labels.shape:
        return softmax_x8.pixel_losses(logits, labels, label_smoothing)
    is_labelled = labels != IGNORE
    known = jnp.where(is_labelled, labels, 0)
    logits = _without_gradient_where_ignored(logits, is_labelled)
    losses = _cross_entropies(logits, known)
    if label_smoothing:
        to_all = jax.nn.logsumexp(logits, -1) - logits.mean(-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * to_all
    return jnp.where(is_labelled, losses, 0)


@jax.custom_vjp
def _without_gradient_where_ignored(logits: jax.Array, is_labelled: jax.Array) -> jax.Array:
    """The logits themselves; no gradient passes where `is_labelled` is False, even if they are not finite there.

    Source: a mask in the forward pass would make the loss 1.2 to 1.6 times as slow on CPUs; this one is free.
    """
    return logits


_without_gradient_where_ignored.defvjp(
    lambda logits, is_labelled: (logits, is_labelled),
    lambda is_labelled, gradient: (jnp.where(is_labelled[..., None], gradient, 0), None),
)


def _true_class_probability(logits: jax.Array, labels: jax.Array) -> jax.Array:
    if logits.shape[:-1] != labels.shape:
        return jnp.exp(-softmax_x8.pixel_losses(logits, labels, 0.0))
    known = jnp.where(labels == IGNORE, 0, labels)
    return jnp.exp(-_cross_entropies(logits, known))


def _cross_entropies(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """logits f32[B,H,W,C], classes i32[B,H,W] (0..C-1) -> f32[B,H,W]; NaN for any other class

    Source: the class is selected, where optax gathers it. A gather makes XLA for TPUs keep the classes innermost,
    19 of them in rows of 128 numbers: 6.7 times the bytes of the logits (benchmarks/tpu_bytes.py).
    """
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    num_classes = logits.shape[-1]
    is_class = classes[..., None] == jnp.arange(num_classes)
    losses = jnp.log(jnp.exp(shifted).sum(-1)) - jnp.where(is_class, shifted, 0).sum(-1)
    return jnp.where((classes >= 0) & (classes < num_classes), losses, jnp.nan)


def _pixel_weights(labels: jax.Array, class_weights: jax.Array | None, dtype) -> jax.Array:
    is_labelled = labels != IGNORE
    if class_weights is None:
        return is_labelled.astype(dtype)
    known = jnp.where(is_labelled, labels, 0)
    return jnp.where(is_labelled, jnp.asarray(class_weights, dtype)[known], 0)


def _safe_ratio(total: jax.Array, count: jax.Array) -> jax.Array:
    return total / jnp.where(count > 0, count, 1)


# By name: the loss, and which settings of the config's group `loss` are its own, by its parameters.
LOSSES: dict[str, tuple[Callable[..., jax.Array], dict[str, str]]] = {
    "cross_entropy": (cross_entropy, {}),
    "ohem": (ohem, {"threshold": "ohem_threshold", "min_kept_fraction": "ohem_min_kept_fraction"}),
    "dice_edge": (dice_edge, {name: name for name in ("dice_weight", "edge_weight", "edge_size")}),
}


def make_loss(
    name: str,
    *,
    class_weights: Sequence[float] | jax.Array | None = None,
    label_smoothing: float = 0.0,
    **settings: float,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The named loss as a function of logits f32[B,h,w,C] and labels i32[B,H,W] (0..C-1 or 255).

    class_weights  f32[C]
    settings       of the config's group `loss`, by their keys; those of other losses are not used
    """
    loss, own = LOSSES[name]
    options = {parameter: settings[key] for parameter, key in own.items() if key in settings}
    weights = None if class_weights is None else jnp.asarray(class_weights)
    return functools.partial(loss, class_weights=weights, label_smoothing=label_smoothing, **options)
