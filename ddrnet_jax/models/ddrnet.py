"""DDRNet: stem, dual branches, bilateral fusion and heads."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from ddrnet_jax.models.blocks import Bottleneck, ConvBN, PreActConv, Stage, resize
from ddrnet_jax.models.dappm import DAPPM
from ddrnet_jax.models.initial_weights import uniform_init
from ddrnet_jax.models.pixel_blocks import in_blocks_on_tpus
from ddrnet_jax.models.relu import relu
from ddrnet_jax.models.variants import VARIANTS

TASKS = ("segmentation", "classification")
SEGMENTER_LAYERS = ("dappm", "head", "aux_head")  # whose weights an ImageNet classifier cannot give
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Output(NamedTuple):
    """The network's outputs, by name.

    logits      segmentation f32[B,ceil(H/8),ceil(W/8),C]; classification f32[B,C]
    aux_logits  like logits, or None without an auxiliary head
    """

    logits: jax.Array
    aux_logits: jax.Array | None = None


def normalise(images: jax.Array) -> jax.Array:
    """[B,H,W,3] RGB (0..255) -> f32[B,H,W,3] with the ImageNet statistics, as every published weight expects."""
    mean, std = jnp.array(IMAGENET_MEAN), jnp.array(IMAGENET_STD)
    return (images.astype(jnp.float32) / 255 - mean) / std


class DualStage(nnx.Module):
    """One stage of both branches, ending in a bilateral fusion (paper figure 3)."""

    def __init__(
        self,
        low_in: int,
        low_out: int,
        high_in: int,
        high_width: int,
        depth: int,
        low_stride: int,
        down_widths: tuple[int, ...],
        *,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.low = Stage(low_in, low_out, depth, low_stride, dtype=dtype, rngs=rngs)
        self.high = Stage(high_in, high_width, depth, dtype=dtype, rngs=rngs)
        self.compression = ConvBN(low_out, high_width, 1, dtype=dtype, rngs=rngs)
        self.down = DownSampling(high_width, down_widths, dtype=dtype, rngs=rngs)

    def __call__(self, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        """low [B,h/2,w/2,low_in], high [B,h,w,high_in], both activated -> the same, fused, not activated."""
        low, high = self.low(low), self.high(high)
        high_to_low = self.down(relu(high))
        low_to_high = resize(self.compression(relu(low)), high.shape[1:3])
        return low + high_to_low, high + low_to_high


class DownSampling(nnx.Module):
    """Strided 3x3 ConvBNs with ReLU between them, from the high branch's size to the low branch's.

    [B,h,w,cin] -> [B,h/2**n,w/2**n,widths[-1]], rounded up, for n widths
    """

    def __init__(self, cin: int, widths: tuple[int, ...], *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        pairs = zip((cin, *widths[:-1]), widths, strict=True)
        self.convs = nnx.List(ConvBN(a, b, 3, 2, dtype=dtype, rngs=rngs) for a, b in pairs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, conv_bn in enumerate(self.convs):
            x = conv_bn(x if i == 0 else relu(x))
        return x


class SegmentationHead(nnx.Module):
    """BN, ReLU, 3x3, BN, ReLU, 1x1 with bias: features to stride-8 logits, [B,h,w,cin] -> [B,h,w,num_classes]."""

    def __init__(self, cin: int, width: int, num_classes: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        self.hidden = PreActConv(cin, width, 3, dtype=dtype, rngs=rngs)
        self.classifier = PreActConv(width, num_classes, 1, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.hidden(x))


class ClassificationHead(nnx.Module):
    """High-to-low fusion, 1x1 ConvBN, global average, linear (paper section 3.2)."""

    def __init__(
        self,
        high_width: int,
        low_width: int,
        last_width: int,
        num_classes: int,
        *,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.down = DownSampling(high_width, (low_width // 2, low_width), dtype=dtype, rngs=rngs)
        self.last = ConvBN(low_width, last_width, 1, dtype=dtype, rngs=rngs)
        init = uniform_init(last_width)
        self.linear = nnx.Linear(last_width, num_classes, kernel_init=init, bias_init=init, dtype=dtype, rngs=rngs)

    def __call__(self, low: jax.Array, high: jax.Array) -> jax.Array:
        """low [B,h/4,w/4,low_width], high [B,h,w,high_width], both activated -> logits [B,num_classes]"""
        x = relu(self.last(relu(low + self.down(high))))
        return self.linear(x.mean((1, 2)))


class DDRNet(nnx.Module):
    """Deep Dual-Resolution Network, as segmenter or ImageNet classifier.

    variant      a name of VARIANTS: "23_slim", "23" or "39"
    task         "segmentation" or "classification"
    aux_head     a second segmentation head on the high branch after stage 3, for training
    dtype        compute dtype; parameters, running statistics and logits stay float32.
                 None: the parameters' own.
    Raises       ValueError on an unknown variant or task, a class count below 1, or an auxiliary head
                 on a classifier.
    Source: arXiv 2101.06085; numerically the official implementation (tests/models/test_parity.py).
    """

    def __init__(
        self,
        variant: str,
        *,
        task: str = "segmentation",
        num_classes: int,
        aux_head: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        _check_arguments(variant, task, num_classes, aux_head)
        self.variant, self.task, self.num_classes, self.dtype = variant, task, num_classes, dtype
        v = VARIANTS[variant]
        w, high = v.width, 2 * v.width
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}

        self.stem = nnx.List(
            [ConvBN(3, w, 3, 2, use_bias=True, **options), ConvBN(w, w, 3, 2, use_bias=True, **options)]
        )
        self.layer1 = Stage(w, w, v.depth1, **options)
        self.layer2 = Stage(w, 2 * w, v.depth2, 2, **options)
        self.stage3 = nnx.List(
            DualStage(
                low_in=2 * w if i == 0 else 4 * w,
                low_out=4 * w,
                high_in=high,
                high_width=high,
                depth=v.depth3,
                low_stride=2 if i == 0 else 1,
                down_widths=(4 * w,),
                **options,
            )
            for i in range(v.repeats3)
        )
        self.stage4 = DualStage(4 * w, 8 * w, high, high, v.depth4, 2, (4 * w, 8 * w), **options)
        is_segmenter = task == "segmentation"
        self.low5 = Bottleneck(8 * w, 8 * w, 2 if is_segmenter else 1, **options)
        self.high5 = Bottleneck(high, high, 1, **options)
        if is_segmenter:
            self.dappm = DAPPM(16 * w, v.dappm_width, 4 * w, **options)
            self.head: Any = SegmentationHead(4 * w, v.head_width, num_classes, **options)
        else:
            self.head = ClassificationHead(4 * w, 16 * w, v.last_width, num_classes, **options)
        self.aux_head = nnx.data(SegmentationHead(high, v.head_width, num_classes, **options) if aux_head else None)

    @in_blocks_on_tpus
    def __call__(self, images: jax.Array) -> Output:
        """images f32[B,H,W,3], RGB, normalised with the ImageNet statistics; any H, W -> Output"""
        low = high = relu(self._to_eighth(images.astype(self.dtype or images.dtype)))
        for stage in self.stage3:
            low, aux_features = stage(low, high)
            low, high = relu(low), relu(aux_features)
        low, high = self.stage4(low, high)
        low, high = self.low5(relu(low)), self.high5(relu(high))
        if self.task == "classification":
            return Output(_wide(self.head(relu(low), relu(high))))
        context = resize(self.dappm(low), high.shape[1:3])
        logits = _wide(self.head(context + high))
        return Output(logits, None if self.aux_head is None else _wide(self.aux_head(aux_features)))

    def _to_eighth(self, x: jax.Array) -> jax.Array:
        """Stem and layers 1 and 2: [B,H,W,3] -> [B,ceil(H/8),ceil(W/8),2w], not activated"""
        for conv_bn in self.stem:
            x = relu(conv_bn(x))
        return self.layer2(relu(self.layer1(x)))


@functools.lru_cache(maxsize=64)
def builder(
    variant: str, *, task: str, num_classes: int, aux_head: bool, dtype: DTypeLike | None = None
) -> Callable[[nnx.Rngs], DDRNet]:
    """A function that makes this network; the same function for the same network."""
    return lambda rngs: DDRNet(variant, task=task, num_classes=num_classes, aux_head=aux_head, dtype=dtype, rngs=rngs)


def _wide(logits: jax.Array) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _check_arguments(variant, task, num_classes, aux_head) -> None:
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; one of {', '.join(VARIANTS)}")
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; one of {', '.join(TASKS)}")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; at least 1 is needed")
    if aux_head and task == "classification":
        raise ValueError("aux_head=True needs task='segmentation': a classifier has no auxiliary head")
