"""Cross entropy and OHEM over the pixels of the global batch."""

import functools

import jax
import jax.numpy as jnp
import optax

IGNORE = 255


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    class_weights: jax.Array | None = None,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Mean cross entropy of the labelled pixels, divided by the sum of their class weights.

    logits         f32[B,H,W,C]
    labels         i32[B,H,W] (0..C-1 or 255)
    class_weights  f32[C] or None
    Returns        f32[]; exactly 0 with zero gradients if nothing is labelled.
    """
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

    logits             f32[B,H,W,C]
    labels             i32[B,H,W] (0..C-1 or 255)
    threshold          a pixel is kept if the probability of its true class is below max(threshold, p_K)
    min_kept_fraction  K, the number always kept, as a fraction of all B*H*W pixels
    class_weights      f32[C] or None; they weigh the kept losses, the mean divides by their number
    Returns            f32[]; exactly 0 with zero gradients if no pixel is kept.
    Source: the reference takes K per GPU (131072 of 3 crops of 1024x1024 = 1/24); here it is over the
    global batch, so that the number of devices changes nothing.
    """
    per_pixel = _pixel_losses(logits, labels, label_smoothing)
    probability = jax.lax.stop_gradient(_true_class_probability(logits, labels))
    limit = hardness_limit(probability, labels != IGNORE, threshold, round(min_kept_fraction * labels.size))
    is_kept = (labels != IGNORE) & (probability < limit)
    weights = jnp.where(is_kept, _pixel_weights(labels, class_weights, per_pixel.dtype), 0)
    return _safe_ratio((per_pixel * weights).sum(), is_kept.sum().astype(per_pixel.dtype))


def hardness_limit(probability: jax.Array, is_labelled: jax.Array, threshold: float, min_kept: int) -> jax.Array:
    """max(threshold, p_sorted[min(min_kept, n - 1)]) over the n labelled pixels, without sorting.

    probability f32[...] (0..1), is_labelled bool[...] -> f32[]
    Source: non-negative floats order like their bit patterns, so the element of a rank is found by
    bisection on the bits; skipped where the threshold alone keeps enough.
    """
    n = is_labelled.sum()
    rank = jnp.minimum(min_kept, n - 1)
    threshold = jnp.asarray(threshold, probability.dtype)
    is_below = is_labelled & (probability <= threshold)
    return jax.lax.cond(
        is_below.sum() > rank,
        lambda: threshold,
        lambda: jnp.maximum(threshold, _element_of_rank(probability, is_labelled, rank)),
    )


def _element_of_rank(values: jax.Array, mask: jax.Array, rank: jax.Array) -> jax.Array:
    """The element of 0-based `rank` among the masked non-negative values, exactly."""
    bits_type = jnp.uint64 if values.dtype == jnp.float64 else jnp.uint32
    bits = jax.lax.bitcast_convert_type(values, bits_type)
    num_bits = jnp.iinfo(bits_type).bits

    def narrow(_, bounds):
        low, high = bounds  # the answer is in low..high
        middle = low + (high - low) // 2
        is_enough = (mask & (bits <= middle)).sum() > rank
        return jnp.where(is_enough, low, middle + 1), jnp.where(is_enough, middle, high)

    top = jax.lax.bitcast_convert_type(jnp.asarray(jnp.inf, values.dtype), bits_type)
    low, _ = jax.lax.fori_loop(0, num_bits, narrow, (jnp.zeros((), bits_type), top))
    return jax.lax.bitcast_convert_type(low, values.dtype)


def _pixel_losses(logits: jax.Array, labels: jax.Array, label_smoothing: float) -> jax.Array:
    """f32[B,H,W], 0 with zero gradient where the pixel is ignored."""
    is_labelled = labels != IGNORE
    known = jnp.where(is_labelled, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, known)
    if label_smoothing:
        to_all = jax.nn.logsumexp(logits, -1) - logits.mean(-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * to_all
    return jnp.where(is_labelled, losses, 0)


def _true_class_probability(logits: jax.Array, labels: jax.Array) -> jax.Array:
    known = jnp.where(labels == IGNORE, 0, labels)
    return jnp.exp(-optax.softmax_cross_entropy_with_integer_labels(logits, known))


def _pixel_weights(labels: jax.Array, class_weights: jax.Array | None, dtype) -> jax.Array:
    is_labelled = labels != IGNORE
    if class_weights is None:
        return is_labelled.astype(dtype)
    known = jnp.where(is_labelled, labels, 0)
    return jnp.where(is_labelled, jnp.asarray(class_weights, dtype)[known], 0)


def _safe_ratio(total: jax.Array, count: jax.Array) -> jax.Array:
    return total / jnp.where(count > 0, count, 1)


LOSSES = {"cross_entropy": cross_entropy, "ohem": ohem}


def make_loss(
    name: str,
    *,
    ohem_threshold: float,
    ohem_min_kept_fraction: float,
    class_weights: jax.Array | None,
    label_smoothing: float,
):
    """The named loss as a function of (logits, labels)."""
    options = {"class_weights": class_weights, "label_smoothing": label_smoothing}
    if name == "ohem":
        options |= {"threshold": ohem_threshold, "min_kept_fraction": ohem_min_kept_fraction}
    return functools.partial(LOSSES[name], **options)
