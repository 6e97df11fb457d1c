"""Seconds of one training step, engines interleaved in one process: ours and its options, PyTorch's two layouts.

python benchmarks/train_step.py [--engines ours,no_remat,scheduled_by_default,xla_defaults,torch_nhwc,torch_nchw]
    [--variant 23_slim] [--batch 2] [--size 256x512] [--rounds 10] [--json FILE]

Auxiliary head, u8 images normalised within the step, cross entropy at image size of both heads (0.4 of the auxiliary
one), SGD with momentum and weight decay, float32. PyTorch (extra "torch"): the twin in eager mode; the better of its
two layouts is the one to compare with. Losses of the first step are compared before anything is timed.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from flax import nnx

from ddrnet_jax import DDRNet
from ddrnet_jax.cli import flags
from ddrnet_jax.models.ddrnet import IMAGENET_MEAN, IMAGENET_STD
from ddrnet_jax.models.variables import merge
from ddrnet_jax.runtime import compilation, devices
from ddrnet_jax.training import losses, optimizer, state
from ddrnet_jax.training.step import make_train_step
from ddrnet_jax.weights.state_dicts import to_state_dict

CLASSES, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, AUX_WEIGHT = 19, 0.01, 0.9, 5e-4, 0.4
Step = Callable[[], float]  # one training step on the same batch -> its loss, once it is done


def jax_step(variant: str, batch: dict[str, np.ndarray], options: dict[str, str], remat: bool) -> tuple[Step, dict]:
    """(our step with these compiler options, what compiling it cost and says)"""
    mesh = devices.data_mesh()
    sgd = optimizer.sgd(lambda step: LEARNING_RATE, momentum=MOMENTUM, nesterov=False, weight_decay=WEIGHT_DECAY)
    graphdef, run_state = state.create(_builder(variant), sgd, seed=0)
    run_state = devices.put_replicated(run_state, mesh)
    on_device = devices.put_batch(batch, mesh)
    with mock.patch.object(compilation, "options", return_value=options):
        step = make_train_step(graphdef, sgd, losses.cross_entropy, mesh, aux_weight=AUX_WEIGHT, remat=remat)
        start = time.perf_counter()
        compiled = step.lower(run_state, on_device).compile()
        about = {"compile_s": time.perf_counter() - start}
    about["temporary_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20

    def run() -> float:
        nonlocal run_state
        run_state, metrics = compiled(run_state, on_device)
        return float(metrics["loss"])

    return run, about


def torch_step(variant: str, batch: dict[str, np.ndarray], is_channels_last: bool) -> tuple[Step, dict]:
    """(the twin's step from the same weights, nothing)"""
    import torch
    import torch.nn.functional as F

    from ddrnet_jax.benchmark.torch_twin import DDRNet as Twin

    sgd = optimizer.sgd(lambda step: LEARNING_RATE, momentum=MOMENTUM, nesterov=False, weight_decay=WEIGHT_DECAY)
    graphdef, first = state.create(_builder(variant), sgd, seed=0)
    weights = to_state_dict(merge(graphdef, first["params"], first["batch_stats"]))
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    network = Twin(variant, num_classes=CLASSES, aux_head=True)
    network.load_state_dict({name: torch.tensor(np.asarray(value)) for name, value in weights.items()}, strict=True)
    network.to(memory_format=layout).train()
    updates = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    images = torch.from_numpy(batch["images"]).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    labels = torch.from_numpy(batch["labels"]).long()
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))

    def at_image_size(logits):
        # Contiguous: PyTorch upsamples channels last, and takes its cross entropy, several times as slowly.
        upsampled = F.interpolate(logits.contiguous(), scale_factor=8, mode="bilinear", align_corners=False)
        return F.cross_entropy(upsampled, labels)

    def run() -> float:
        updates.zero_grad(set_to_none=True)
        logits, aux_logits = network((images.float() / 255 - mean) / std)
        loss = at_image_size(logits) + AUX_WEIGHT * at_image_size(aux_logits)
        loss.backward()
        updates.step()
        return loss.item()

    return run, {}


def _builder(variant: str) -> Callable[[nnx.Rngs], DDRNet]:
    return lambda rngs: DDRNet(variant, num_classes=CLASSES, aux_head=True, rngs=rngs)


ENGINES = {
    "ours": lambda variant, batch: jax_step(variant, batch, compilation.options(is_training=True), remat=True),
    "no_remat": lambda variant, batch: jax_step(variant, batch, compilation.options(is_training=True), remat=False),
    "scheduled_by_default": lambda variant, batch: jax_step(variant, batch, compilation.options(), remat=False),
    "xla_defaults": lambda variant, batch: jax_step(variant, batch, {}, remat=False),
    "torch_nhwc": lambda variant, batch: torch_step(variant, batch, is_channels_last=True),
    "torch_nchw": lambda variant, batch: torch_step(variant, batch, is_channels_last=False),
}


def interleaved(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each engine's step in each round, after one round that does not count."""
    seconds = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}


def main() -> None:
    """Print medians, and the median over the rounds of ours against each other engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="ours,xla_defaults")
    parser.add_argument("--variant", default="23_slim")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=flags.size_hw, default="256x512")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.engines.split(",")) - ENGINES.keys():
        parser.error(f"--engines: {', '.join(sorted(unknown))}: expected {', '.join(ENGINES)}")
    if "torch" in arguments.engines and not importlib.util.find_spec("torch"):
        parser.error("--engines: torch is not installed: pip install -e '.[torch]'")
    height, width = arguments.size
    rng = np.random.default_rng(0)
    batch = {
        "images": rng.integers(0, 256, (arguments.batch, height, width, 3), dtype=np.uint8),
        "labels": rng.integers(0, CLASSES, (arguments.batch, height, width), dtype=np.uint8),
    }
    made = {name: ENGINES[name](arguments.variant, batch) for name in arguments.engines.split(",")}
    first_losses = {name: step() for name, (step, _) in made.items()}
    assert np.ptp(list(first_losses.values())) < 1e-3, f"these are not the same step: {first_losses}"
    seconds = interleaved({name: step for name, (step, _) in made.items()}, arguments.rounds)
    figures = {
        name: {
            "median_s": statistics.median(seconds[name]),
            "ours_over_this": statistics.median(a / b for a, b in zip(seconds["ours"], seconds[name], strict=True)),
        }
        | about
        for name, (_, about) in made.items()
    }
    what = f"{arguments.variant}, {arguments.batch} x {height}x{width}"
    print(f"{what}, jax {jax.__version__} on {jax.devices()[0].device_kind}, {arguments.rounds} rounds, medians")
    for name, figure in figures.items():
        compiled = ""
        if "compile_s" in figure:
            compiled = f", {figure['temporary_mib']:.0f} MiB, compiled in {figure['compile_s']:.1f} s"
        print(f"{name:20} {figure['median_s']:6.3f} s, ours / this: {figure['ours_over_this']:.2f}{compiled}")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"case": what, "jax": jax.__version__, "engines": figures}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
