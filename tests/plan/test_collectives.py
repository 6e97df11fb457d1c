"""Collectives read from HLO text: hand-written lines of every kind, and programs compiled for four virtual devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ddrnet_jax.plan.collectives import Total, collective_totals
from ddrnet_jax.runtime import devices

HLO = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[64])) -> (s32[], f32[64]) {
  %p = (s32[], f32[64]{0:T(128)}) parameter(0)
  %x = f32[64]{0:T(128)} get-tuple-element(%p), index=1
  %r = f32[64]{0:T(128)S(1)} all-reduce(%x), channel_id=1, replica_groups=mesh['data'=4] {'data'}, to_apply=%add
  ROOT %t = (s32[], f32[64]{0:T(128)}) tuple(%i, %r)
}

%condition (p: (s32[], f32[64])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%left (p: f32[8]) -> f32[8] {
  ROOT %permute = f32[8]{0} collective-permute(%p), channel_id=9, source_target_pairs={{0,1}}
}

%right (p: f32[8]) -> f32[8] {
  ROOT %p = f32[8]{0} parameter(0)
}

%wrapped (p: bf16[16]) -> bf16[4] {
  ROOT %scatter = bf16[4]{0} reduce-scatter(%p), channel_id=7, dimensions={0}, to_apply=%add
}

%unused (p: f32[8]) -> f32[8] {
  ROOT %never = f32[8]{0} all-reduce(%p), to_apply=%add
}

ENTRY %main (x: f32[4]) -> f32[] {
  %pair = (f32[32]{0:T(128)}, f32[8,128]{1,0:T(8,128)}, /*index=2*/bf16[2]{0}) all-reduce(%a, %b, %c), to_apply=%add
  %start = f32[100]{0} all-reduce-start(%x), channel_id=2, to_apply=%add
  %done = f32[100]{0} all-reduce-done(%start)
  %gather = (f32[4]{0}, f32[16]{0}) all-gather-start(%x), dimensions={0}
  %gathered = f32[16]{0} all-gather-done(%gather)
  %exchange = (pred[3]{0}, pred[3]{0}) all-to-all(%e, %f), replica_groups={{0,1}}
  %move = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%g), source_target_pairs={{0,1}}
  %w = (s32[], f32[64]) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %c = f32[8] conditional(%flag, %g, %g), true_computation=%left, false_computation=%right
  %async = ((bf16[16]), bf16[4], u32[]) async-start(%h), calls=%wrapped
  ROOT %out = f32[] constant(0), metadata={op_name="all-reduce(not one)"}
}
"""


def test_every_kind_is_counted_once_and_as_often_as_it_runs():
    assert collective_totals(HLO) == {
        "all-reduce": Total(1 + 1 + 5, (32 + 8 * 128) * 4 + 2 * 2 + 100 * 4 + 5 * 64 * 4),
        "all-gather": Total(1, 16 * 4),
        "reduce-scatter": Total(1, 4 * 2),
        "all-to-all": Total(1, 6),
        "collective-permute": Total(2, 2 * 8 * 4),
    }


def test_an_outer_loop_of_unknown_length_runs_as_often_as_one_says():
    text = HLO.replace('backend_config={"known_trip_count":{"n":"5"}}', 'metadata={op_name="while"}')
    once, three = (collective_totals(text, outer_loop_length=n)["all-reduce"].count for n in (1, 3))
    assert (once, three) == (3, 5)
    assert collective_totals(HLO, outer_loop_length=3) == collective_totals(HLO)  # the text knows better


NESTED = """\
%inner (p: f32[8]) -> f32[8] {
  ROOT %r = f32[8]{0} all-reduce(%p), to_apply=%add
}

%outer (p: f32[8]) -> f32[8] {
  %s = f32[4]{0} all-reduce(%p), to_apply=%add
  ROOT %w = f32[8] while(%p), condition=%less, body=%inner
}

ENTRY %main (x: f32[8]) -> f32[8] {
  ROOT %w = f32[8] while(%x), condition=%less, body=%outer
}
"""


def test_a_loop_of_unknown_length_in_another_counts_once_each_time():
    assert collective_totals(NESTED, outer_loop_length=3) == {"all-reduce": Total(3 + 3, 3 * 4 * 4 + 3 * 8 * 4)}


def test_a_program_without_collectives_has_none():
    text = jax.jit(lambda x: x + 1).lower(0.0).compile().as_text()
    assert collective_totals(text) == {}


@pytest.fixture(scope="module")
def mesh():
    return devices.data_mesh(jax.devices()[:4])


def compiled_text(mesh, function, shape):
    mapped = jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=False)
    argument = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=devices.by_batch(mesh))
    return jax.jit(mapped).lower(argument).compile().as_text()


@pytest.mark.parametrize(
    ("function", "kind", "size"),
    [
        (lambda x: jax.lax.psum(x, "data"), "all-reduce", 6 * 5 * 4),
        (lambda x: jax.lax.all_gather(x, "data"), "all-gather", 4 * 6 * 5 * 4),
        (lambda x: jax.lax.ppermute(x, "data", [(0, 1), (1, 0)]), "collective-permute", 6 * 5 * 4),
    ],
)
def test_what_xla_compiles_for_four_devices(mesh, function, kind, size):
    assert collective_totals(compiled_text(mesh, function, (24, 5))) == {kind: Total(1, size)}


def test_a_loop_of_known_length_counts_every_time(mesh):
    def repeated(x):
        return jax.lax.scan(lambda total, _: (jnp.sin(total + jax.lax.psum(total, "data")), None), x, length=7)[0]

    assert collective_totals(compiled_text(mesh, repeated, (24, 5))) == {"all-reduce": Total(7, 7 * 6 * 5 * 4)}


def test_the_gradient_of_replicated_weights_is_one_all_reduce_of_their_size(mesh):
    weights = jax.ShapeDtypeStruct((5, 3), np.float32, sharding=devices.replicated(mesh))
    rows = jax.ShapeDtypeStruct((8, 5), np.float32, sharding=devices.by_batch(mesh))
    gradient = jax.jit(jax.grad(lambda w, x: jnp.tanh(x @ w).sum()), out_shardings=devices.replicated(mesh))
    assert collective_totals(gradient.lower(weights, rows).compile().as_text()) == {"all-reduce": Total(1, 5 * 3 * 4)}
