"""The part of a training step that is a loss: (params, batch_stats, batch) -> (loss, (batch_stats, metrics))."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Primitive

from ddrnet_jax.models import platforms, variables
from ddrnet_jax.models.batch_norm import STATISTICS
from ddrnet_jax.models.ddrnet import Output, normalise

# batch: {"images": u8[B,H,W,3], "labels": u8[B,H,W] or, of class numbers, i32[B]}; and what is fixed (see make_step)
# metrics: f32[] by name, which a run logs as means over its steps
Objective = Callable[[dict, dict, dict[str, jax.Array]], tuple[jax.Array, tuple[dict, dict[str, jax.Array]]]]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Distance = Callable[[jax.Array, dict], jax.Array]  # of logits from a teacher's, for a batch


def loss_of_heads(
    graphdef: nnx.GraphDef,
    loss: Loss,
    platform: str,
    *,
    aux_weight: float = 0.4,
    remat: bool = True,
    distance: Distance | None = None,
    distance_weight: float = 1.0,
) -> Objective:
    """The loss of the head, and that of the auxiliary head if there is one.

    loss        of logits and labels: of a segmenter, at stride 8, f32[B,h,w,C] and i32[B,H,W]; of a classifier f32[B,C]
                and i32[B]
    platform    "cpu", "gpu" or "tpu": where it will run
    aux_weight  of the auxiliary head's loss
    remat       gradients compute batch norm and ReLU again, from the outputs of the convolutions, instead of
                keeping them: less memory
    distance    None, or what is added of the head's logits, distance_weight times
    Its metrics are {"loss", "loss_main", "loss_aux"} and, with a distance, "loss_distill".
    """
    forward = training_forward(graphdef, platform, remat=remat)

    def objective(params, batch_stats, batch):
        with platforms.compiled_for(platform):
            return of_batch(params, batch_stats, batch)

    def of_batch(params, batch_stats, batch):
        out, batch_stats = forward(params, batch_stats, batch["images"])
        labels = batch["labels"].astype(jnp.int32)
        main = loss(out.logits, labels)
        aux = jnp.zeros_like(main) if out.aux_logits is None else loss(out.aux_logits, labels)
        total = main + aux_weight * aux
        metrics = {"loss_main": main, "loss_aux": aux}
        if distance is not None:
            metrics["loss_distill"] = distance(out.logits, batch)
            total += distance_weight * metrics["loss_distill"]
        return total, (batch_stats, {"loss": total} | metrics)

    return objective


def training_forward(graphdef: nnx.GraphDef, platform: str, *, remat: bool) -> Callable:
    """The network in train mode: (params, batch_stats, images u8[B,H,W,3]) -> (Output, new batch_stats).

    remat    as of `loss_of_heads`
    Source: computing again from what the convolutions returned costs no convolution. As compiled for a TPU v5e the step
    needs half of the memory and accesses a fifth fewer bytes (benchmarks/tpu_bytes.py); on CPUs it takes 0.99 of the
    time (benchmarks/train_step.py). On GPUs batch norm's statistics are kept too, since they would be reduced among the
    devices again: 141 all-reduces instead of 203 at the same peak of memory (benchmarks/gpu_bytes.py). So they are on
    TPUs, where the step then accesses 1.6 % fewer bytes at the same peak, and the compiler expects 8 % fewer cycles. On
    CPUs that takes 1.04 to 1.08 of the time.
    """
    policy = _KEPT.get(platform, _is_convolution)

    def forward(params, batch_stats, images):
        model = variables.merge(graphdef, params, batch_stats)
        model.train()
        with platforms.compiled_for(platform):
            out = model(normalise(images))
        # By name: a network of one's own may return its heads in an object that JAX does not know.
        return Output(out.logits, getattr(out, "aux_logits", None)), variables.batch_stats(model)

    return jax.checkpoint(forward, policy=policy) if remat else forward


def _is_convolution(primitive: Primitive, *_, **__) -> bool:
    return primitive is jax.lax.conv_general_dilated_p


# What rematerialisation keeps beside the outputs of convolutions: nothing on CPUs, and on accelerators this.
_WITH_STATISTICS = jax.checkpoint_policies.save_from_both_policies(
    _is_convolution, jax.checkpoint_policies.save_only_these_names(STATISTICS)
)
_KEPT = {"gpu": _WITH_STATISTICS, "tpu": _WITH_STATISTICS}
