"""Kernels and bytes, counted by hand."""

import pytest

from ddrnet_jax.plan import kernels

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_add (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %inner = f32[4,8]{1,0} add(%p, %p)
}

ENTRY %main (x.1: f32[1,2,2,8], k.1: bf16[1,1,8,8]) -> f32[1,2,2,8] {
  %x.1 = f32[1,2,2,8]{3,2,1,0} parameter(0)
  %k.1 = bf16[1,1,8,8]{3,2,1,0} parameter(1)
  %constant_1 = s32[] constant(7)
  %wrapped_transpose = bf16[8,1,1,8]{3,2,1,0} fusion(%k.1), kind=kInput, calls=%fused_transpose
  %cudnn-conv.1 = (f32[1,2,2,8]{3,2,1,0}, u8[0]{0}) custom-call(%x.1, %wrapped_transpose), \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %get-tuple-element.1 = f32[1,2,2,8]{3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
  %cudnn-conv-bias.2 = (f32[1,2,2,8]{3,2,1,0}, u8[0]{0}) custom-call(%get-tuple-element.1, %wrapped_transpose), \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBiasActivationForward"
  %get-tuple-element.2 = f32[1,2,2,8]{3,2,1,0} get-tuple-element(%cudnn-conv-bias.2), index=0
  %all-reduce-start = f32[1,2,2,8]{3,2,1,0} all-reduce-start(%get-tuple-element.2), to_apply=%sum
  %all-reduce-done = f32[1,2,2,8]{3,2,1,0} all-reduce-done(%all-reduce-start)
  ROOT %add_fusion = (f32[1,2,2,8]{3,2,1,0}, /*index=1*/pred[4,8]{1,0}) fusion(%all-reduce-done, %constant_1), \
kind=kLoop, calls=%fused_add
}
"""


def test_what_is_started_and_what_passes_between():
    found = kernels.of_program(PROGRAM)
    assert found.count == 5
    assert (found.convolutions, found.fused_convolutions, found.transposes) == (2, 1, 1)
    map_bytes, kernel_bytes = 2 * 2 * 8 * 4, 8 * 8 * 2
    transposed = 2 * kernel_bytes
    convolved = 2 * (map_bytes + kernel_bytes + map_bytes)
    assert found.bytes == transposed + convolved + 2 * map_bytes + (map_bytes + 4 + map_bytes + 4 * 8)
    assert found.flops == 2 * 2 * (2 * 2 * 8) * 8


LOOP = """HloModule jit_step

%body (state: (s32[], f32[10])) -> (s32[], f32[10]) {
  %state = (s32[], f32[10]{0}) parameter(0)
  %x = f32[10]{0} get-tuple-element(%state), index=1
  %twice = f32[10]{0} fusion(%x), kind=kLoop, calls=%fused_double
  ROOT %next = (s32[], f32[10]{0}) tuple(%i, %twice)
}

ENTRY %main (x.1: f32[10]) -> f32[10] {
  %x.1 = f32[10]{0} parameter(0)
  %start = (s32[], f32[10]{0}) tuple(%zero, %x.1)
  %loop = (s32[], f32[10]{0}) while(%start), condition=%condition, body=%bodyTRIPS
  ROOT %out = f32[10]{0} get-tuple-element(%loop), index=1
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    known = LOOP.replace("TRIPS", ', backend_config={"known_trip_count":{"n":"4"}}')
    assert kernels.of_program(known).count == 4
    assert kernels.of_program(known, loop_length=3).bytes == 4 * 80
    assert kernels.of_program(LOOP.replace("TRIPS", ""), loop_length=3).count == 3


@pytest.mark.parametrize(
    ("target", "result", "operands"),
    [
        ("convForward", "f32[2,5,7,8]", ("f32[2,5,7,4]", "f32[8,3,3,4]")),
        ("convBackwardInput", "f32[2,5,7,4]", ("f32[2,5,7,8]", "f32[8,3,3,4]")),
        ("convBackwardFilter", "f32[8,3,3,4]", ("f32[2,5,7,4]", "f32[2,5,7,8]")),
    ],
)
def test_a_convolution_and_its_gradients_have_as_many_operations(target, result, operands):
    first, second = operands
    text = f"""ENTRY %main (a: {first}, b: {second}) -> {result} {{
  %a = {first}{{3,2,1,0}} parameter(0)
  %b = {second}{{3,2,1,0}} parameter(1)
  ROOT %c = ({result}{{3,2,1,0}}, u8[0]{{0}}) custom-call(%a, %b), window={{size=3x3 pad=1_1x1_1}}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn${target}"
}}
"""
    assert kernels.of_program(text).flops == 2 * (2 * 5 * 7 * 8) * (3 * 3 * 4)


def test_sizes_are_those_of_the_types():
    assert kernels.size("(f16[2,3]{1,0}, f8e4m3fn[5], pred[7], s64[], u32[2]{0})") == 12 + 5 + 7 + 8 + 8


def test_a_text_without_a_program_has_no_kernels():
    assert kernels.of_program("HloModule empty\n").count == 0
