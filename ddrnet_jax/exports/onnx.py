"""The inference network as an ONNX file for images of one size, checked against ours through ONNX Runtime.

Written node by node from our modules: converters lose explicit padding of pools, and know neither that Resize
and ArgMax are fastest with channels last nor that a normalisation fits into the first kernel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ddrnet_jax.exports import onnx_engine
from ddrnet_jax.exports.onnx_engine import IMAGES, MASKS, EngineError
from ddrnet_jax.models.batch_norm import EPSILON, BatchNorm
from ddrnet_jax.models.blocks import BasicBlock, Bottleneck, ConvBN, PreActConv, Stage, upsample_x8
from ddrnet_jax.models.dappm import DAPPM, POOLS
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, IMAGENET_STD, DDRNet, DownSampling, DualStage, normalise
from ddrnet_jax.models.folding import Folded, fold
from ddrnet_jax.models.upsampling import argmax_x8
from ddrnet_jax.runtime import compilation
from ddrnet_jax.weights.fingerprint import fixed_images

OPSET, IR_VERSION = 18, 8  # of 2022: any runtime of today reads them
RELATIVE_LIMIT = 1e-4  # of the largest logit: how far theirs may be from ours
_LOGITS = "logits"
_FLOAT, _UINT8 = 1, 2  # onnx.TensorProto's numbers


class Agreement(NamedTuple):
    """The distance of ONNX Runtime from us on one image."""

    relative_logit_difference: float  # largest, over our largest logit
    differing_pixels: int
    pixels: int


def to_onnx(model: DDRNet, size_hw: tuple[int, int], card: str = "{}") -> tuple[bytes, Agreement]:
    """(the file's bytes, how well they agree with the model): u8[1,H,W,3] RGB -> u8[1,H,W] train ids, in float32.

    card    text that travels in the file
    Raises  EngineError if onnx or onnxruntime is missing, or if theirs differs from ours.
    """
    onnx = onnx_engine.installed("onnx")
    folded = fold(model, jnp.float32)
    proto = _graph(onnx, folded, size_hw)
    onnx.helper.set_model_props(proto, {onnx_engine.CARD: card})
    proto.graph.output.append(onnx.helper.make_tensor_value_info(_LOGITS, onnx.TensorProto.FLOAT, None))
    agreement = _compare(folded, proto.SerializeToString(), size_hw)
    proto.graph.output.pop()
    return proto.SerializeToString(), agreement


def _compare(folded: DDRNet, theirs: bytes, size_hw: tuple[int, int]) -> Agreement:
    """Raises EngineError where logits differ by more than rounding, or classes do where our best two are apart."""
    pattern = fixed_images()[0]
    images = np.tile(pattern, [-(-n // m) for n, m in zip(size_hw, pattern.shape, strict=False)] + [1])
    images = images[None, : size_hw[0], : size_hw[1]]
    their_masks, their_logits = onnx_engine.session(theirs).run([MASKS, _LOGITS], {IMAGES: images})

    def ours(images):
        logits = folded(normalise(images)).logits
        return argmax_x8(logits, size_hw), logits

    our_masks, our_logits = jax.jit(ours, compiler_options=compilation.options())(images)
    largest = float(jnp.abs(our_logits).max())
    difference = float(np.abs(np.moveaxis(their_logits, 1, -1) - our_logits).max()) / largest
    differ = their_masks != np.asarray(our_masks)
    agreement = Agreement(difference, int(differ.sum()), differ.size)
    margins = _margins(np.asarray(upsample_x8(our_logits, size_hw))[differ]) / largest if differ.any() else np.zeros(1)
    if not difference <= RELATIVE_LIMIT or margins.max() > RELATIVE_LIMIT:
        raise EngineError(
            f"ONNX Runtime differs from our network: logits by {difference:.1e} of the largest (limit "
            f"{RELATIVE_LIMIT:.0e}), classes at {agreement.differing_pixels} of {differ.size} pixels; "
            "nothing was written"
        )
    return agreement


def _margins(logits: np.ndarray) -> np.ndarray:
    """f32[N,C] -> f32[N], the best minus the second best"""
    best = np.sort(logits, -1)
    return best[:, -1] - best[:, -2]


class _Map(NamedTuple):
    """A feature map f32[1,C,h,w] of the graph."""

    name: str
    size_hw: tuple[int, int]


class _Nodes:
    """The nodes of a graph, in order, and its constants."""

    def __init__(self, onnx):
        self._onnx, self.nodes, self.constants = onnx, [], []

    def add(self, op: str, *inputs: str | np.ndarray, output: str | None = None, **attributes) -> str:
        """The name of a new node's output; inputs are such names, or arrays."""
        names = [i if isinstance(i, str) else self._constant(i) for i in inputs]
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(op, names, [output], **attributes))
        return output

    def _constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def relu(self, x: _Map) -> _Map:
        return _Map(self.add("Relu", x.name), x.size_hw)

    def plus(self, a: _Map, b: _Map) -> _Map:
        return _Map(self.add("Add", a.name, b.name), a.size_hw)

    def resize(self, x: _Map, size_hw: tuple[int, int]) -> _Map:
        if x.size_hw == size_hw:
            return x
        sizes = np.array(size_hw, np.int64)
        name = self.add("Resize", x.name, "", "", sizes, axes=[2, 3], **_HALF_PIXEL_BILINEAR)
        return _Map(name, size_hw)


_HALF_PIXEL_BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def _graph(onnx, model: DDRNet, size_hw: tuple[int, int]):
    """The whole program as an onnx.ModelProto with one input and one output."""
    g = _Nodes(onnx)
    logits = _network(g, model, _centred_images(g, size_hw))
    g.add("Identity", logits.name, output=_LOGITS)
    _masks(g, logits, size_hw)
    uint8 = onnx.TensorProto.UINT8
    images = onnx.helper.make_tensor_value_info(IMAGES, uint8, [1, *size_hw, 3])
    masks = onnx.helper.make_tensor_value_info(MASKS, uint8, [1, *size_hw])
    graph = onnx.helper.make_graph(g.nodes, "DDRNet", [images], [masks], g.constants)
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="ddrnet_jax")


def _centred_images(g: _Nodes, size_hw: tuple[int, int]) -> _Map:
    """Images less the mean; the first kernel divides by the deviation, so that its padding is still zero."""
    centred = g.add("Sub", g.add("Cast", IMAGES, to=_FLOAT), np.array(IMAGENET_MEAN, np.float32) * 255)
    return _Map(g.add("Transpose", centred, perm=[0, 3, 1, 2]), size_hw)


def _masks(g: _Nodes, logits: _Map, size_hw: tuple[int, int]) -> None:
    """Classes at image size. Channels last: ONNX Runtime takes half the time of channels first."""
    x = g.add("Transpose", logits.name, perm=[0, 2, 3, 1])
    x = g.add("Resize", x, "", np.array([1, 8, 8, 1], np.float32), **_HALF_PIXEL_BILINEAR)
    x = g.add("Cast", g.add("ArgMax", x, axis=3, keepdims=0), to=_UINT8)
    g.add("Slice", x, np.array([0, 0]), np.array(size_hw), np.array([1, 2]), output=MASKS)


def _network(g: _Nodes, model: DDRNet, x: _Map) -> _Map:
    """As DDRNet.__call__ of a segmenter."""
    scale = 1 / (255 * np.array(IMAGENET_STD, np.float32))
    for i, conv_bn in enumerate(model.stem):
        x = g.relu(_conv_bn(g, conv_bn, x, input_scale=scale if i == 0 else None))
    x = g.relu(_stage(g, model.layer2, g.relu(_stage(g, model.layer1, x))))
    low = high = x
    for stage in model.stage3:
        low, high = (g.relu(branch) for branch in _dual_stage(g, stage, low, high))
    low, high = _dual_stage(g, model.stage4, low, high)
    low, high = _bottleneck(g, model.low5, g.relu(low)), _bottleneck(g, model.high5, g.relu(high))
    context = g.resize(_dappm(g, model.dappm, low), high.size_hw)
    return _pre_act(g, model.head.classifier, _pre_act(g, model.head.hidden, g.plus(context, high)))


def _dual_stage(g: _Nodes, m: DualStage, low: _Map, high: _Map) -> tuple[_Map, _Map]:
    low, high = _stage(g, m.low, low), _stage(g, m.high, high)
    high_to_low = _down(g, m.down, g.relu(high))
    low_to_high = g.resize(_conv_bn(g, m.compression, g.relu(low)), high.size_hw)
    return g.plus(low, high_to_low), g.plus(high, low_to_high)


def _down(g: _Nodes, m: DownSampling, x: _Map) -> _Map:
    for i, conv_bn in enumerate(m.convs):
        x = _conv_bn(g, conv_bn, x if i == 0 else g.relu(x))
    return x


def _stage(g: _Nodes, m: Stage, x: _Map) -> _Map:
    for i, block in enumerate(m.blocks):
        x = _basic_block(g, block, x if i == 0 else g.relu(x))
    return x


def _basic_block(g: _Nodes, m: BasicBlock, x: _Map) -> _Map:
    y = _conv_bn(g, m.conv_bn2, g.relu(_conv_bn(g, m.conv_bn1, x)))
    return g.plus(y, x if m.shortcut is None else _conv_bn(g, m.shortcut, x))


def _bottleneck(g: _Nodes, m: Bottleneck, x: _Map) -> _Map:
    y = g.relu(_conv_bn(g, m.conv_bn1, x))
    y = g.relu(_conv_bn(g, m.conv_bn2, y))
    return g.plus(_conv_bn(g, m.conv_bn3, y), _conv_bn(g, m.shortcut, x))


def _dappm(g: _Nodes, m: DAPPM, x: _Map) -> _Map:
    pooled = [_average_pool(g, x, size, stride) for size, stride in POOLS]
    pooled.append(_Map(g.add("GlobalAveragePool", x.name), (1, 1)))
    outputs = [_pre_act(g, m.scales[0], x)]
    for scale, process, p in zip(list(m.scales)[1:], m.processes, pooled, strict=True):
        outputs.append(_pre_act(g, process, g.plus(outputs[-1], g.resize(_pre_act(g, scale, p), x.size_hw))))
    joined = _Map(g.add("Concat", *(y.name for y in outputs), axis=1), x.size_hw)
    return g.plus(_pre_act(g, m.compression, joined), _pre_act(g, m.shortcut, x))


def _average_pool(g: _Nodes, x: _Map, size: int, stride: int) -> _Map:
    name = g.add(
        "AveragePool",
        x.name,
        kernel_shape=[size, size],
        strides=[stride, stride],
        pads=[size // 2] * 4,
        count_include_pad=1,
    )
    return _Map(name, _strided(x.size_hw, stride))


def _pre_act(g: _Nodes, m: PreActConv, x: _Map) -> _Map:
    return _conv(g, m.conv, g.relu(_batch_norm(g, m.bn, x)))


def _conv_bn(g: _Nodes, m: ConvBN, x: _Map, input_scale: np.ndarray | None = None) -> _Map:
    assert isinstance(m.bn, Folded)
    return _conv(g, m.conv, x, input_scale)


def _batch_norm(g: _Nodes, bn: BatchNorm | Folded, x: _Map) -> _Map:
    if isinstance(bn, Folded):
        return x
    constants = (np.asarray(v[...], np.float32) for v in (bn.scale, bn.bias, bn.mean, bn.var))
    return _Map(g.add("BatchNormalization", x.name, *constants, epsilon=EPSILON), x.size_hw)


def _conv(g: _Nodes, conv: nnx.Conv, x: _Map, input_scale: np.ndarray | None = None) -> _Map:
    kernel = np.asarray(conv.kernel[...], np.float32).transpose(3, 2, 0, 1)
    if input_scale is not None:
        kernel = kernel * input_scale[:, None, None]
    bias = () if conv.bias is None else (np.asarray(conv.bias[...], np.float32),)
    size, stride = kernel.shape[2], conv.strides if isinstance(conv.strides, int) else (conv.strides or (1,))[0]
    name = g.add("Conv", x.name, kernel, *bias, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4)
    return _Map(name, _strided(x.size_hw, stride))


def _strided(size_hw: tuple[int, int], stride: int) -> tuple[int, int]:
    height, width = size_hw
    return -(-height // stride), -(-width // stride)
