"""From images to what is predicted at every pixel of them, the one way: sizes, scales, mirror images, tiles."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding

from ddrnet_jax.data.labels import IGNORE
from ddrnet_jax.errors import UserError
from ddrnet_jax.models.blocks import resize, upsample_x8
from ddrnet_jax.models.ddrnet import normalise
from ddrnet_jax.models.inference import merged
from ddrnet_jax.models.upsampling import argmax_x8
from ddrnet_jax.runtime import compilation

AVERAGES = ("logits", "probabilities")
_LEAST_OVERLAP = 1 / 3  # of a tile, with the next


@dataclasses.dataclass(frozen=True)
class View:
    """The sizes, tiles, scales and mirror images in which the network sees an image.

    scales   of its input; what it sees in several is averaged
    flip     average with the mirrored image
    average  one of AVERAGES, of scales and mirror images: their logits, or their probabilities as mmsegmentation does
    size_hw  pixels that images are resized to first; None: each image at its own size
    tile_hw  pixels it sees at a time, of each scale; None: all of them
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    average: str = "logits"
    size_hw: tuple[int, int] | None = None
    tile_hw: tuple[int, int] | None = None

    def __post_init__(self):
        if self.average not in AVERAGES:
            raise UserError(f"View(average={self.average!r}): expected one of {', '.join(map(repr, AVERAGES))}")


WHOLE_IMAGES = View()


def prediction_view(settings: Mapping) -> View:
    """The view for predictions: evaluation's sizes and tiles, one scale, no mirror image."""
    return View(size_hw=settings["size_hw"], tile_hw=settings["tile_hw"])


def prediction_program(
    graphdef: nnx.GraphDef,
    finish: Callable,
    view: View = WHOLE_IMAGES,
    *,
    by_batch: Sharding | None = None,
    out: Sharding | tuple[Sharding, ...] | None = None,
) -> Callable:
    """A function (weights, images u8[B,H,W,3], *rest) -> finish(predictions i32[B,H,W] (0..C-1), *rest), compiled.

    weights   (params, batch_stats) of the network of `graphdef`
    by_batch  how images and logits are spread over devices, and `out` what finish returns; None: as JAX chooses
    Compiles once per image size; with view.size_hw only two resizes, the network is compiled once.
    """

    def at_image_size(weights, images, *rest):
        return finish(predictions(merged(graphdef, weights), images, view), *rest)

    def network(weights, images):
        return averaged_logits(merged(graphdef, weights), images, view)

    def enlarge(logits, image_hw, *rest):
        return finish(_best_class(logits, image_hw), *rest)

    whole = _jit(at_image_size, out)
    if view.size_hw is None:
        return whole
    shrink = _jit(functools.partial(to_size, size_hw=view.size_hw), by_batch)
    network, enlarge = _jit(network, by_batch), _jit(enlarge, out, static_argnums=1)

    def by_way_of_size(weights, images, *rest):
        if images.shape[1:3] == tuple(view.size_hw):
            return whole(weights, images, *rest)
        return enlarge(network(weights, shrink(images)), images.shape[1:3], *rest)

    return by_way_of_size


def mask_program(graphdef: nnx.GraphDef, view: View = WHOLE_IMAGES) -> Callable:
    """A function (weights, images u8[B,H,W,3]) -> masks u8[B,H,W], compiled; weights are (params, batch_stats)."""
    return prediction_program(graphdef, lambda predictions: predictions.astype(jnp.uint8), view)


def sure_mask_program(graphdef: nnx.GraphDef, view: View = WHOLE_IMAGES) -> Callable:
    """A function (weights, images u8[B,H,W,3], confidence) -> (u8[B,H,W] best classes, the same with 255 where unsure).

    confidence  probability (0..1) of the best class, by the averaged logits; below it a pixel is IGNORE
    """

    def masks(weights, images, confidence):
        image_hw = images.shape[1:3]
        seen = to_size(images, view.size_hw) if view.size_hw not in (None, image_hw) else images
        logits = resize(averaged_logits(merged(graphdef, weights), seen, view), image_hw)
        best = jnp.argmax(logits, -1).astype(jnp.uint8)
        is_sure = jax.nn.softmax(logits).max(-1) >= confidence
        return best, jnp.where(is_sure, best, IGNORE).astype(jnp.uint8)

    return _jit(masks, None)


def _jit(function: Callable, sharding: Sharding | tuple[Sharding, ...] | None, **options) -> Callable:
    placed: dict[str, Any] = {} if sharding is None else {"out_shardings": sharding}
    return jax.jit(function, compiler_options=compilation.options(), **placed, **options)


def predictions(model: nnx.Module, images: jax.Array, view: View = WHOLE_IMAGES) -> jax.Array:
    """images u8[B,H,W,3] -> i32[B,H,W] (0..C-1), what a view predicts, as one function to compile or export"""
    image_hw = images.shape[1:3]
    is_resized = view.size_hw not in (None, image_hw)
    if not is_resized and tuple(view.scales) == (1.0,) and not view.flip:
        return argmax_x8(_logits_by_tiles(model, normalise(images), view.tile_hw), image_hw)
    seen = to_size(images, view.size_hw) if view.size_hw and is_resized else images
    return _best_class(averaged_logits(model, seen, view), image_hw)


def _best_class(logits: jax.Array, image_hw: tuple[int, ...]) -> jax.Array:
    return jnp.argmax(resize(logits, image_hw), -1).astype(jnp.int32)


def to_size(images: jax.Array, size_hw: tuple[int, int]) -> jax.Array:
    """u8[B,H,W,3] -> f32[B,*size_hw,3] (0..255), bilinear"""
    return resize(images.astype(jnp.float32), size_hw)


def averaged_logits(model: nnx.Module, images: jax.Array, view: View = WHOLE_IMAGES) -> jax.Array:
    """Logits at image size, averaged over scales (rounded to multiples of 8), mirror images and overlapping tiles.

    images [B,H,W,3] (0..255) -> f32[B,H,W,C]; view.size_hw is not looked at
    Where the view averages probabilities, these are their logarithms: softmax gives back the mean probabilities.
    """
    x = normalise(images)
    image_hw = images.shape[1:3]

    def logits_of(scaled):
        return resize(upsample_x8(_logits_by_tiles(model, scaled, view.tile_hw), scaled.shape[1:3]), image_hw)

    def each() -> Iterator[jax.Array]:
        for scale in view.scales:
            scaled_hw = image_hw if scale == 1 else tuple(max(8, round(n * scale / 8) * 8) for n in image_hw)
            scaled = resize(x, scaled_hw)
            yield logits_of(scaled)
            if view.flip:
                yield logits_of(scaled[:, :, ::-1])[:, :, ::-1]

    count = len(view.scales) * (1 + view.flip)
    if view.average == "logits" or count == 1:
        return functools.reduce(operator.add, each()) / count
    return functools.reduce(jnp.logaddexp, map(jax.nn.log_softmax, each())) - math.log(count)


def _logits_by_tiles(model: nnx.Module, x: jax.Array, tile_hw: tuple[int, int] | None) -> jax.Array:
    return average_of_tiles(lambda tile: model(tile).logits, x, tile_hw or x.shape[1:3])


def average_of_tiles(network: Callable[[jax.Array], jax.Array], x: jax.Array, tile_hw: tuple[int, ...]) -> jax.Array:
    """Stride-8 logits of x, seen a tile at a time: the memory of one tile. Where tiles overlap, their mean.

    network  f32[B,h,w,3] -> f32[B,ceil(h/8),ceil(w/8),C]
    x        f32[B,H,W,3] -> f32[B,ceil(H/8),ceil(W/8),C]
    tile_hw  multiples of 8; where x is smaller, a tile has its size. One tile that covers x gives network(x) itself.
    Neighbours share a third of a tile or more, as in mmsegmentation's sliding windows; HRNet's do not overlap.
    """
    if tile_hw[0] >= x.shape[1] and tile_hw[1] >= x.shape[2]:
        return network(x)
    cells_hw = [-(-n // 8) for n in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *((0, 8 * cells - n) for cells, n in zip(cells_hw, x.shape[1:3], strict=True)), (0, 0)))
    tile_h, tile_w = (min(n // 8, cells) for n, cells in zip(tile_hw, cells_hw, strict=True))
    corners = [(top, left) for top in tile_starts(cells_hw[0], tile_h) for left in tile_starts(cells_hw[1], tile_w)]
    seen_by = np.zeros((*cells_hw, 1), np.float32)
    for top, left in corners:
        seen_by[top : top + tile_h, left : left + tile_w] += 1

    def seen_at(top, left):
        size = (x.shape[0], 8 * tile_h, 8 * tile_w, x.shape[3])
        return network(jax.lax.dynamic_slice(x, (0, 8 * top, 8 * left, 0), size))

    def add(total, corner):
        seen, start = seen_at(*corner), (0, *corner, 0)
        so_far = jax.lax.dynamic_slice(total, start, seen.shape)
        return jax.lax.dynamic_update_slice(total, so_far + seen, start), None

    one = jax.eval_shape(seen_at, 0, 0)
    total = jnp.zeros((x.shape[0], *cells_hw, one.shape[-1]), one.dtype)
    return jax.lax.scan(add, total, jnp.array(corners))[0] / seen_by


def tile_starts(length: int, tile: int) -> list[int]:
    """The first cells of as few tiles as cover `length` and share a third, evenly spread."""
    count = 1 + math.ceil(max(0, length - tile) / max(1, tile - math.ceil(tile * _LEAST_OVERLAP)))
    return [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]
