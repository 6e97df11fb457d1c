"""The network in PyTorch eager as a program to time: torch_twin.py, batch norms fused, channels last.

Neither torch nor the twin is imported before it is asked for.
"""

import math
from types import ModuleType

import jax
import numpy as np

from ddrnet_jax.benchmark import device
from ddrnet_jax.benchmark.cases import Protocol
from ddrnet_jax.benchmark.files import image_to_measure
from ddrnet_jax.benchmark.timing import Program
from ddrnet_jax.exports.onnx_engine import EngineError, installed
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, IMAGENET_STD, DDRNet
from ddrnet_jax.weights.state_dicts import to_state_dict

PACKAGES = ("torch",)
NOTE = (
    "torch: eager, float32 (TF32 off), channels last, batch norms fused, on the device that JAX uses; on GPUs not at "
    "its fastest: cudnn.benchmark off, neither torch.compile nor CUDA graphs, channels first not tried"
)


def check_installed() -> None:
    """Raises EngineError with what to do if PyTorch is missing or lacks the device."""
    torch = installed("torch", "torch")
    platform = jax.default_backend()
    if platform == "tpu" or (platform == "gpu" and not torch.cuda.is_available()):
        raise EngineError(
            f"--engines torch: this PyTorch has no {platform}, which JAX uses; JAX_PLATFORMS=cpu compares CPUs"
        )


class TorchNetwork:
    """A network at one image size."""

    def __init__(self, model: DDRNet, size_hw: tuple[int, int]):
        torch = self._torch = installed("torch", "torch")
        from ddrnet_jax.benchmark.torch_twin import DDRNet as Twin

        self._device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        twin = Twin(model.variant, num_classes=model.num_classes, aux_head=model.aux_head is not None)
        twin.load_state_dict({k: torch.tensor(v) for k, v in to_state_dict(model).items()}, strict=True)
        twin.seghead_extra = None  # of training alone; the twin would compute it in every forward
        _fuse_batch_norms(torch, twin.eval())
        self._twin = twin.to(self._device, memory_format=torch.channels_last)
        mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        self._mean, self._scale = 255 * mean, 1 / (255 * std)
        self._image = image_to_measure(size_hw)
        self._upsampled_bytes = 4 * model.num_classes * math.prod(size_hw)

    def program(self, protocol: Protocol, batch: int) -> Program:
        """The program that a protocol times, as `OurNetwork` gives it. Raises OutOfMemory if its outputs do not fit."""
        if protocol.name != "logits":
            device.check_fits(2 * batch * self._upsampled_bytes)  # of one forward and the next, or a copy
        images = np.stack([self._image] * batch)
        if protocol.name in ("mask", "file"):
            return Program(lambda images=images: self._run(lambda: self._masks(images)))
        normalised = self._run(lambda: self._normalised(images))
        logits = self._at_image_size if protocol.name == "paper" else self._logits
        return Program(lambda: self._run(lambda: logits(normalised)), self._wait)

    def _run(self, function):
        with self._torch.inference_mode():
            return function()

    def _wait(self, output) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize()

    def _normalised(self, images: np.ndarray):
        on_device = self._torch.from_numpy(images).to(self._device).permute(0, 3, 1, 2)  # channels last already
        return on_device.float().sub_(self._mean).mul_(self._scale)

    def _logits(self, images):
        return self._twin(images)[0]

    def _at_image_size(self, images):
        """Channels first, the faster way to upsample; and of these, max finds classes in a sixth of argmax's time."""
        upsample, (height, width) = self._torch.nn.functional.interpolate, images.shape[2:]
        logits = upsample(self._logits(images).contiguous(), scale_factor=8, mode="bilinear", align_corners=False)
        return logits[:, :, :height, :width]

    def _masks(self, images: np.ndarray) -> np.ndarray:
        classes = self._at_image_size(self._normalised(images)).max(1).indices
        return classes.to(self._torch.uint8).cpu().numpy()


def _fuse_batch_norms(torch: ModuleType, network) -> None:
    """Into the convolution right before each, where there is one."""
    nn = torch.nn
    for module in list(network.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (bn_name, bn) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
                setattr(module, conv_name, nn.utils.fusion.fuse_conv_bn_eval(conv, bn))
                setattr(module, bn_name, nn.Identity())
