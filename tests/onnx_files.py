"""A network without weights as an exported ONNX file: its masks are the red channel of the images."""

import json

import numpy as np
import onnx

from ddrnet_jax import config
from ddrnet_jax.config import files as config_files
from ddrnet_jax.exports.onnx_engine import CARD, IMAGES, MASKS


def red_channel(card="{}", size=("B", "H", "W")):
    """A file whose masks are the first channel of the images."""
    shape, uint8 = list(size), onnx.TensorProto.UINT8
    value = onnx.helper.make_tensor_value_info
    zero = onnx.numpy_helper.from_array(np.array(0), "zero")
    node = onnx.helper.make_node("Gather", [IMAGES, "zero"], [MASKS], axis=3)
    graph = onnx.helper.make_graph(
        [node], "red", [value(IMAGES, uint8, [*shape, 3])], [value(MASKS, uint8, shape)], [zero]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.helper.set_model_props(model, {CARD: card})
    return model.SerializeToString()


def write_red_channel(path):
    """As a file with the card of a config that nobody changed."""
    path.write_bytes(red_channel(json.dumps({"config": config_files.to_json(config.base())})))
    return path
