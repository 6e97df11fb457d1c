"""The inference network as an ONNX graph, from u8 images to u8 masks.

Written node by node from our modules: converters lose explicit padding of pools, and know neither that a normalisation
fits into the first kernel nor that most masks need no upsampled logits.
"""

from typing import Any

import numpy as np
from flax import nnx

from ddrnet_jax.exports.onnx_engine import IMAGES, MASKS
from ddrnet_jax.models.batch_norm import EPSILON, BatchNorm
from ddrnet_jax.models.blocks import BasicBlock, Bottleneck, ConvBN, PreActConv, Stage
from ddrnet_jax.models.dappm import DAPPM, POOLS
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, IMAGENET_STD, DDRNet, DownSampling, DualStage
from ddrnet_jax.models.folding import Folded

CENTRED, LOGITS = "centred", "logits"  # images less the mean, f32[B,3,H,W]; f32[B,C,ceil(H/8),ceil(W/8)]
HIGH_STRIDE, DAPPM_STRIDE = 8, 64  # image pixels a pixel of the high branch, and of DAPPM's maps
# How the names of nodes begin: what may be quantised, and what loses by it (DAPPM, the classifier) or gains nothing.
BODY, FLOAT = "body.", "float."
OPSET, IR_VERSION = 18, 8  # of 2022: any runtime of today reads them
HALF_PIXEL_BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
_FLOAT, _UINT8 = 1, 2  # onnx.TensorProto's numbers


class _Nodes:
    """The nodes of a graph, in order, and its constants. Feature maps f32[B,C,h,w] are known by their names."""

    def __init__(self, onnx):
        self._onnx, self.nodes, self.constants = onnx, [], []
        self.part = FLOAT  # the beginning of the names of the nodes to come

    def add(self, op: str, *inputs: str | np.ndarray, output: str | None = None, **attributes) -> str:
        """The name of a new node's output; inputs are such names, or arrays."""
        names = [i if isinstance(i, str) else self._constant(i) for i in inputs]
        name = f"{self.part}{op}_{len(self.nodes)}"
        output = output or name
        self.nodes.append(self._onnx.helper.make_node(op, names, [output], name=name, **attributes))
        return output

    def _constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def plus(self, a: str, b: str) -> str:
        return self.add("Add", a, b)

    def resize(self, x: str, stride: int) -> str:
        """x at the size of the maps of this stride.

        All four lengths are given: where ONNX Runtime moves transposes, as in int8, it takes two for the first two.
        """
        size_hw = self.add("Div", self.add("Add", self.image_hw(), np.array([stride - 1])), np.array([stride]))
        lengths = self.add("Concat", self.add("Shape", x, start=0, end=2), size_hw, axis=0)
        return self.add("Resize", x, "", "", lengths, **HALF_PIXEL_BILINEAR)

    def image_hw(self) -> str:
        """i64[2]"""
        return self.add("Shape", IMAGES, start=1, end=3)


def program(onnx: Any, model: DDRNet, size_hw: tuple[int, int] | None) -> Any:
    """The whole program of a folded network as an onnx.ModelProto with one input and one output.

    onnx     the package
    size_hw  of the images, which are then one at a time; None: any, and any number
    """
    g = _Nodes(onnx)
    logits = _network(g, model, _centred_images(g))
    g.add("Identity", logits, output=LOGITS)
    _masks(g, logits)
    shape = [1, *size_hw] if size_hw else ["B", "H", "W"]
    uint8 = onnx.TensorProto.UINT8
    images = onnx.helper.make_tensor_value_info(IMAGES, uint8, [*shape, 3])
    masks = onnx.helper.make_tensor_value_info(MASKS, uint8, shape)
    graph = onnx.helper.make_graph(g.nodes, "DDRNet", [images], [masks], g.constants)
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="ddrnet_jax")


def _centred_images(g: _Nodes) -> str:
    """Images less the mean; the first kernel divides by the deviation, so that its padding is still zero.

    Channels first before anything else: bytes are moved, not floats, and a subtraction over a last axis of 3 is slow.
    """
    channels_first = g.add("Cast", g.add("Transpose", IMAGES, perm=[0, 3, 1, 2]), to=_FLOAT)
    return g.add("Sub", channels_first, np.array(IMAGENET_MEAN, np.float32)[:, None, None] * 255, output=CENTRED)


def _masks(g: _Nodes, logits: str) -> None:
    """Classes at image size, as models/upsampling.py has them, up to rounding where two classes are equal.

    A cell is the 8x8 pixels between four neighbouring logits. Where these have one best class it is the best of every
    pixel between them, since bilinear interpolation is convex; the rest, mixed cells, are interpolated.
    """
    around = g.add("Transpose", logits, perm=[0, 2, 3, 1])  # so that a pixel's classes are neighbours in memory
    around = g.add("Pad", around, np.array([0, 1, 1, 0, 0, 1, 1, 0]), mode="edge")
    best = g.add("Cast", g.add("ArgMax", around, axis=3, keepdims=0), to=_UINT8)
    first, *others = (_corner(g, best, down, right) for down, right in _CORNERS)
    unlike = [g.add("Not", g.add("Equal", first, other)) for other in others]
    mixed = g.add("NonZero", g.add("Or", g.add("Or", unlike[0], unlike[1]), unlike[2]))
    mixed = g.add("Transpose", mixed, perm=[1, 0])  # i64[N,3], places of cells
    whole = g.add("Expand", g.add("Unsqueeze", first, np.array([3])), np.array([1, 1, 1, 64]))
    cells = g.add("ScatterND", whole, mixed, _mixed_cells(g, around, mixed))
    _cropped(g, cells, first)


_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of a cell: down, right


def _corner(g: _Nodes, around: str, down: int, right: int) -> str:
    """This corner of every cell."""
    start, end = np.array([down, right]), np.array([n - 1 or np.iinfo(np.int64).max for n in (down, right)])
    return g.add("Slice", around, start, end, np.array([1, 2]))


def _mixed_cells(g: _Nodes, around: str, places: str) -> str:
    """The classes u8[N,64] of the pixels of the cells at these places i64[N,3]."""
    offsets = np.array([(0, *corner) for corner in _CORNERS])
    corners = g.add("GatherND", around, g.add("Add", g.add("Unsqueeze", places, np.array([1])), offsets))
    after = np.arange(1, 16, 2, dtype=np.float32) / 16  # the weight of the right, or lower, of two neighbours
    line = np.stack([1 - after, after], 1)  # exact
    weights = np.einsum("yd,xr->yxdr", line, line).reshape(64, 4)
    return g.add("Cast", g.add("ArgMax", g.add("MatMul", weights, corners), axis=2, keepdims=0), to=_UINT8)


def _cropped(g: _Nodes, cells: str, like: str) -> None:
    """Masks of cells u8[B,h+1,w+1,64]: half a cell lies outside on each side."""
    rows = g.add("Transpose", g.add("Reshape", cells, np.array([0, 0, 0, 8, 8])), perm=[0, 1, 3, 2, 4])
    pixels = g.add("Reshape", rows, g.add("Mul", g.add("Shape", like), np.array([1, 8, 8])))
    end = g.add("Add", g.image_hw(), np.array([4, 4]))
    g.add("Slice", pixels, np.array([4, 4]), end, np.array([1, 2]), output=MASKS)


def _network(g: _Nodes, model: DDRNet, x: str) -> str:
    """As DDRNet.__call__ of a segmenter."""
    scale = 1 / (255 * np.array(IMAGENET_STD, np.float32))
    g.part = BODY
    for i, conv_bn in enumerate(model.stem):
        x = g.relu(_conv_bn(g, conv_bn, x, input_scale=scale if i == 0 else None))
    x = g.relu(_stage(g, model.layer2, g.relu(_stage(g, model.layer1, x))))
    low = high = x
    for stage in model.stage3:
        low, high = (g.relu(branch) for branch in _dual_stage(g, stage, low, high))
    low, high = _dual_stage(g, model.stage4, low, high)
    low, high = _bottleneck(g, model.low5, g.relu(low)), _bottleneck(g, model.high5, g.relu(high))
    g.part = FLOAT
    context = g.resize(_dappm(g, model.dappm, low), HIGH_STRIDE)
    g.part = BODY
    hidden = _pre_act(g, model.head.hidden, g.plus(context, high))
    g.part = FLOAT
    return _pre_act(g, model.head.classifier, hidden)


def _dual_stage(g: _Nodes, m: DualStage, low: str, high: str) -> tuple[str, str]:
    low, high = _stage(g, m.low, low), _stage(g, m.high, high)
    high_to_low = _down(g, m.down, g.relu(high))
    low_to_high = g.resize(_conv_bn(g, m.compression, g.relu(low)), HIGH_STRIDE)
    return g.plus(low, high_to_low), g.plus(high, low_to_high)


def _down(g: _Nodes, m: DownSampling, x: str) -> str:
    for i, conv_bn in enumerate(m.convs):
        x = _conv_bn(g, conv_bn, x if i == 0 else g.relu(x))
    return x


def _stage(g: _Nodes, m: Stage, x: str) -> str:
    for i, block in enumerate(m.blocks):
        x = _basic_block(g, block, x if i == 0 else g.relu(x))
    return x


def _basic_block(g: _Nodes, m: BasicBlock, x: str) -> str:
    y = _conv_bn(g, m.conv_bn2, g.relu(_conv_bn(g, m.conv_bn1, x)))
    return g.plus(y, x if m.shortcut is None else _conv_bn(g, m.shortcut, x))


def _bottleneck(g: _Nodes, m: Bottleneck, x: str) -> str:
    y = g.relu(_conv_bn(g, m.conv_bn1, x))
    y = g.relu(_conv_bn(g, m.conv_bn2, y))
    return g.plus(_conv_bn(g, m.conv_bn3, y), _conv_bn(g, m.shortcut, x))


def _dappm(g: _Nodes, m: DAPPM, x: str) -> str:
    pooled = [_average_pool(g, x, size, stride) for size, stride in POOLS]
    pooled.append(g.add("GlobalAveragePool", x))
    outputs = [_pre_act(g, m.scales[0], x)]
    for scale, process, p in zip(list(m.scales)[1:], m.processes, pooled, strict=True):
        outputs.append(_pre_act(g, process, g.plus(outputs[-1], g.resize(_pre_act(g, scale, p), DAPPM_STRIDE))))
    joined = g.add("Concat", *outputs, axis=1)
    return g.plus(_pre_act(g, m.compression, joined), _pre_act(g, m.shortcut, x))


def _average_pool(g: _Nodes, x: str, size: int, stride: int) -> str:
    window: dict[str, Any] = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": [size // 2] * 4}
    return g.add("AveragePool", x, count_include_pad=1, **window)


def _pre_act(g: _Nodes, m: PreActConv, x: str) -> str:
    return _conv(g, m.conv, g.relu(_batch_norm(g, m.bn, x)))


def _conv_bn(g: _Nodes, m: ConvBN, x: str, input_scale: np.ndarray | None = None) -> str:
    assert isinstance(m.bn, Folded)
    return _conv(g, m.conv, x, input_scale)


def _batch_norm(g: _Nodes, bn: BatchNorm | Folded, x: str) -> str:
    if isinstance(bn, Folded):
        return x
    constants = (np.asarray(v[...], np.float32) for v in (bn.scale, bn.bias, bn.mean, bn.var))
    return g.add("BatchNormalization", x, *constants, epsilon=EPSILON)


def _conv(g: _Nodes, conv: nnx.Conv, x: str, input_scale: np.ndarray | None = None) -> str:
    kernel = np.asarray(conv.kernel[...], np.float32).transpose(3, 2, 0, 1)
    if input_scale is not None:
        kernel = kernel * input_scale[:, None, None]
    bias = () if conv.bias is None else (np.asarray(conv.bias[...], np.float32),)
    size, stride = kernel.shape[2], conv.strides if isinstance(conv.strides, int) else (conv.strides or (1,))[0]
    return g.add("Conv", x, kernel, *bias, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4)
