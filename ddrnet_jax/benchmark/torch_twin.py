"""DDRNet in PyTorch under the official state-dict names: what ddrnet_jax is compared with in numbers and in speed.

model = DDRNet("23_slim", num_classes=19).eval()
model.load_state_dict(torch.load("weights.pth", weights_only=True), strict=True)
logits, aux_logits = model(images)

To be imported only where torch is asked for: it is no requirement of the package. Submodules carry the names of the
official files and stand in their order; a trailing underscore marks the high-resolution branch.
tests/pytorch/test_torch_twin.py proves that it is the network.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from ddrnet_jax.models.variants import VARIANTS


class DDRNet(nn.Module):
    """Deep Dual-Resolution Network, as segmenter or ImageNet classifier.

    variant   a name of VARIANTS: "23_slim", "23" or "39"
    task      "segmentation" or "classification"
    aux_head  a second segmentation head on the high branch after stage 3
    """

    def __init__(self, variant: str, *, task: str = "segmentation", num_classes: int, aux_head: bool = False):
        super().__init__()
        if task not in ("segmentation", "classification"):
            raise ValueError(f"unknown task {task!r}; one of segmentation, classification")
        v = VARIANTS[variant]
        width, high = v.width, 2 * v.width
        # The repeats of stage 3, as the names of their modules end.
        self.stage3 = ["3"] if v.repeats3 == 1 else [f"3_{i + 1}" for i in range(v.repeats3)]
        self.is_classifier = task == "classification"

        self.conv1 = nn.Sequential(
            *(conv(3, width, 3, 2, bias=True), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(conv(width, width, 3, 2, bias=True), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
        )
        self.layer1 = stage(width, width, v.depth1)
        self.layer2 = stage(width, 2 * width, v.depth2, 2)
        for i, name in enumerate(self.stage3):
            self.add_module(f"layer{name}", stage((4 if i else 2) * width, 4 * width, v.depth3, 1 if i else 2))
        self.layer4 = stage(4 * width, 8 * width, v.depth4, 2)
        for name in self.stage3:
            self.add_module(f"compression{name}", conv_bn(4 * width, high, 1))
        self.compression4 = conv_bn(8 * width, high, 1)
        for name in self.stage3:
            self.add_module(f"down{name}", conv_bn(high, 4 * width, 3, 2))
        self.down4 = downsampling(high, 4 * width, 8 * width)
        for name in self.stage3:
            self.add_module(f"layer{name}_", stage(high, high, v.depth3))
        self.layer4_ = stage(high, high, v.depth4)
        self.layer5_ = nn.Sequential(Bottleneck(high, high))
        if self.is_classifier:
            self.down5 = downsampling(4 * width, 8 * width, 16 * width)
            self.layer5 = nn.Sequential(Bottleneck(8 * width, 8 * width))
            self.last_layer = nn.Sequential(
                *conv_bn(16 * width, v.last_width, 1),
                nn.ReLU(inplace=True),
                nn.AdaptiveAvgPool2d(1),
            )
            self.linear = nn.Linear(v.last_width, num_classes)
        else:
            self.layer5 = nn.Sequential(Bottleneck(8 * width, 8 * width, 2))
            self.spp = DAPPM(16 * width, v.dappm_width, 4 * width)
            self.seghead_extra = segmentation_head(high, v.head_width, num_classes) if aux_head else None
            self.final_layer = segmentation_head(4 * width, v.head_width, num_classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """f32[B,3,H,W], any H and W -> (logits, aux_logits): f32[B,C,ceil(H/8),ceil(W/8)], as classifier f32[B,C].

        aux_logits is None without an auxiliary head.
        """
        low = high = F.relu(self.layer2(F.relu(self.layer1(self.conv1(images)))))
        for name in self.stage3:
            low, aux_features = self._dual_stage(name, low, high)
            low, high = F.relu(low), F.relu(aux_features)
        low, high = self._dual_stage("4", low, high)
        low, high = self.layer5(F.relu(low)), self.layer5_(F.relu(high))
        if self.is_classifier:
            features = self.last_layer(F.relu(F.relu(low) + self.down5(F.relu(high))))
            return self.linear(features.flatten(1)), None
        logits = self.final_layer(resize(self.spp(low), high) + high)
        return logits, None if self.seghead_extra is None else self.seghead_extra(aux_features)

    def _dual_stage(self, name: str, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both branches of one stage and their exchange: activated maps -> the next ones, not activated."""
        low, high = getattr(self, f"layer{name}")(low), getattr(self, f"layer{name}_")(high)
        high_to_low = getattr(self, f"down{name}")(F.relu(high))
        low_to_high = resize(getattr(self, f"compression{name}")(F.relu(low)), high)
        return low + high_to_low, high + low_to_high


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; [B,cin,h,w] -> [B,width,h/stride,w/stride]."""

    def __init__(self, cin: int, width: int, stride: int = 1, final_relu: bool = True):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = shortcut(cin, width, stride)
        self.final_relu = final_relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y)) + self.downsample(x)
        return F.relu(y, inplace=True) if self.final_relu else y


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and a shortcut, not activated; [B,cin,h,w] -> [B,2*width,h/stride,w/stride]."""

    def __init__(self, cin: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = conv(cin, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 2 * width, 1), nn.BatchNorm2d(2 * width)
        self.downsample = shortcut(cin, 2 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return self.bn3(self.conv3(y)) + self.downsample(x)


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling: context of five scales, each refined with the one before it."""

    def __init__(self, cin: int, width: int, cout: int):
        super().__init__()
        for i in (1, 2, 3):
            pooling = nn.AvgPool2d(2 ** (i + 1) + 1, stride=2**i, padding=2**i)
            self.add_module(f"scale{i}", nn.Sequential(pooling, *preact_conv(cin, width, 1)))
        self.scale4 = nn.Sequential(nn.AdaptiveAvgPool2d(1), *preact_conv(cin, width, 1))
        self.scale0 = preact_conv(cin, width, 1)
        for i in (1, 2, 3, 4):
            self.add_module(f"process{i}", preact_conv(width, width, 3))
        self.compression = preact_conv(5 * width, cout, 1)
        self.shortcut = preact_conv(cin, cout, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scales = [self.scale0(x)]
        for i in (1, 2, 3, 4):
            context = resize(getattr(self, f"scale{i}")(x), x)
            scales.append(getattr(self, f"process{i}")(context + scales[-1]))
        return self.compression(torch.cat(scales, 1)) + self.shortcut(x)


def resize(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """[B,C,h,w] -> bilinear, half-pixel centres, to the height and width of `target`."""
    return F.interpolate(x, size=target.shape[2:], mode="bilinear", align_corners=False)


def conv(cin: int, cout: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """`size` x `size` convolution, padded by size // 2 on all four sides."""
    return nn.Conv2d(cin, cout, size, stride, size // 2, bias=bias)


def conv_bn(cin: int, cout: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    return nn.Sequential(conv(cin, cout, size, stride), nn.BatchNorm2d(cout))


def preact_conv(cin: int, cout: int, size: int) -> nn.Sequential:
    """Batch norm, ReLU, convolution."""
    return nn.Sequential(nn.BatchNorm2d(cin), nn.ReLU(inplace=True), conv(cin, cout, size))


def downsampling(cin: int, middle: int, cout: int) -> nn.Sequential:
    """From the high branch's size to a quarter of it, not activated at the end."""
    return nn.Sequential(*conv_bn(cin, middle, 3, 2), nn.ReLU(inplace=True), *conv_bn(middle, cout, 3, 2))


def shortcut(cin: int, cout: int, stride: int) -> nn.Module:
    """The identity, or a projection where a block changes size or width."""
    return nn.Identity() if stride == 1 and cin == cout else conv_bn(cin, cout, 1, stride)


def stage(cin: int, cout: int, depth: int, stride: int = 1) -> nn.Sequential:
    """`depth` BasicBlocks, the first with the stride, the last not activated."""
    blocks = [
        BasicBlock(cin if i == 0 else cout, cout, stride if i == 0 else 1, final_relu=i < depth - 1)
        for i in range(depth)
    ]
    return nn.Sequential(*blocks)


def segmentation_head(cin: int, width: int, num_classes: int) -> nn.Sequential:
    """Features to class logits."""
    layers = OrderedDict(
        bn1=nn.BatchNorm2d(cin),
        relu1=nn.ReLU(inplace=True),
        conv1=conv(cin, width, 3),
        bn2=nn.BatchNorm2d(width),
        relu2=nn.ReLU(inplace=True),
        conv2=conv(width, num_classes, 1, bias=True),
    )
    return nn.Sequential(layers)
