"""Weights files from anywhere: sound ones are read exactly, all others end in one clear line."""

import os
import pickle
import pickletools
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from weights import fuzz_files as fuzz
from weights.fuzz_files import EMPTY_ORDERED_DICT, Legacy, Member, Tensor, group, named, number, text

from ddrnet_jax.weights.files import WeightsFileError, read_safetensors, read_tensors, write_pth, write_safetensors

KINDS = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
SIX = np.arange(6, dtype=np.float32)
SOUND = Tensor("weight", data=SIX.tobytes())
WEIGHT = SIX.reshape(2, 3)


def as_zip(tensors=(SOUND,), opcodes=None):
    return fuzz.zip_file(fuzz.pth_members(list(tensors), opcodes))


def as_zip64(tensors=(SOUND,), opcodes=None):
    return fuzz.zip_file(fuzz.pth_members(list(tensors), opcodes), zip64=True)


def as_legacy(tensors=(SOUND,), opcodes=None):
    return Legacy(list(tensors), opcodes).to_bytes()


FORMATS = pytest.mark.parametrize("container", [as_zip, as_zip64, as_legacy])


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a weights file."""

    def read_bytes(content):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        return read_tensors(path)

    return read_bytes


@pytest.fixture
def refusal(read, tmp_path):
    """The one line that bytes are refused with, less the path that must begin it."""

    def line_of(content):
        with pytest.raises(WeightsFileError) as caught:
            read(content)
        line = str(caught.value)
        start = f"{tmp_path / 'weights.pth'}: "
        assert line.startswith(start)
        assert "\n" not in line
        assert len(line) < 600
        return line.removeprefix(start)

    return line_of


def program(*opcodes):
    return b"\x80\x02" + b"".join(opcodes) + b"."


def arrays_of_every_kind():
    values = np.arange(-3, 9).reshape(3, 4)
    arrays = {name: (values > 0 if kind is np.bool_ else values.astype(kind)) for name, kind in KINDS.items()}
    arrays |= {
        "scalar": np.int64(7).reshape(()),
        "none": np.zeros((0, 3), np.float32),
        "one": np.ones(1, np.float16),
    }
    return arrays | {
        "transposed": values.astype(np.float32).T,
        "every second": SIX[::2],
        "backwards": SIX[::-1],
    }


def assert_same(read, wanted):
    assert list(read) == list(wanted)
    for name in wanted:
        assert read[name].dtype == wanted[name].dtype, name
        assert read[name].shape == wanted[name].shape, name
        assert read[name].tobytes() == wanted[name].tobytes(), name


# --- what is read ----------------------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_read_exactly(read, container, kind):
    values = np.array([0, 1, 1, 0, 1, 1]).astype(KINDS[kind])
    tensor = replace(SOUND, kind=kind, data=values.tobytes())
    assert_same(read(container([tensor])), {"weight": values.reshape(2, 3)})


@FORMATS
@pytest.mark.parametrize(
    ("offset", "size", "stride", "wanted"),
    [
        (0, (3, 2), (1, 3), WEIGHT.T),
        (1, (2, 2), (3, 1), WEIGHT[:, 1:]),
        (0, (3,), (2,), SIX[::2]),
        (5, (), (), SIX[5]),
        (5, (1, 1), (2**62, 2**62), SIX[5:].reshape(1, 1)),
        (0, (2, 2), (1, 1), np.array([[0, 1], [1, 2]], np.float32)),
        (6, (0, 4), (4, 1), np.zeros((0, 4), np.float32)),
    ],
)
def test_strided_views_are_read_exactly(read, container, offset, size, stride, wanted):
    tensor = replace(SOUND, offset=offset, size=size, stride=stride)
    np.testing.assert_array_equal(read(container([tensor]))["weight"], wanted, strict=True)


@FORMATS
def test_tied_tensors_stay_tied_and_count_once(read, container):
    data = bytes(2**16)
    tensor = Tensor("a", "0", "Byte", 2**16, 0, (2**16,), (1,), data)
    tensors = read(container([tensor, replace(tensor, name="b")]))
    tensors["a"][3] = 7
    assert tensors["b"][3] == 7


@FORMATS
def test_values_around_the_tensors_are_kept(read, container):
    legacy = container is as_legacy
    state = fuzz.state_opcodes([SOUND], legacy)[2:-1]
    numbers = number(3) + number(0.5) + number(None) + number(True) + number(-(2**40))
    metadata = b"}" + text("_metadata") + EMPTY_ORDERED_DICT + b"sb"
    content = program(b"}(", text("state_dict"), state, metadata, text("rest"), b"](", numbers, b"e", number(1), b")u")
    value = read(container([SOUND], content))
    np.testing.assert_array_equal(value["state_dict"]["weight"], WEIGHT)
    assert value["rest"] == [3, 0.5, None, True, -(2**40)]
    assert value[1] == ()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_of_every_pickle_protocol_are_read(read, protocol):
    value = {
        "epoch": 3,
        "names": ["road", "é" * 300],
        "nested": ({"a": (1, 2, 3, 4)}, -1.5),
        7: [None, True, 2**33],
    }
    assert read(as_zip([], pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_scalars_are_read_as_numbers(read, protocol, module):
    kinds = [kind for kind in KINDS.values() if kind is not ml_dtypes.bfloat16]
    value = [np.dtype(kind).type(number) for kind in [*kinds, np.uint16, np.uint32, np.uint64] for number in (0, 1, 99)]
    value += [np.float64(0.7731), np.float32("-inf"), np.int64(-(2**60)), np.uint64(2**64 - 1)]
    found = pickletools.optimize(pickle.dumps(value, protocol))
    if protocol < 4:  # later ones tell the name's length
        found = found.replace(b"numpy._core.multiarray", module)
    numbers = read(as_zip([], found))
    assert numbers == [scalar.item() for scalar in value]
    assert [type(number) for number in numbers] == [type(scalar.item()) for scalar in value]


@FORMATS
def test_parameters_are_read_as_tensors(read, container):
    tensor = fuzz.tensor_opcodes(SOUND, container is as_legacy)
    plain = named("torch._utils._rebuild_parameter") + group(tensor, b"\x88", EMPTY_ORDERED_DICT) + b"R"
    arguments = group(tensor, b"\x88", EMPTY_ORDERED_DICT, b"}")
    with_state = named("torch._utils._rebuild_parameter_with_state") + arguments + b"R"
    value = read(container([SOUND], program(group(plain, with_state))))
    np.testing.assert_array_equal(value, [WEIGHT, WEIGHT])


def test_an_untyped_storage_takes_its_type_from_the_tensor(read):
    storage = group(text("storage"), named("torch.storage.UntypedStorage"), text("0"), text("cpu"), number(24)) + b"Q"
    view = [
        storage,
        number(4),
        group(number(2)),
        group(number(1)),
        b"\x89",
        EMPTY_ORDERED_DICT,
        named("torch.uint32"),
    ]
    opcodes = program(named("torch._utils._rebuild_tensor_v3"), group(*view), b"R")
    np.testing.assert_array_equal(read(as_zip([SOUND], opcodes)), SIX.view(np.uint32)[4:], strict=True)


def test_pth_round_trip(tmp_path):
    arrays = arrays_of_every_kind()
    write_pth(tmp_path / "a.pth", arrays)
    assert_same(read_tensors(tmp_path / "a.pth"), arrays)
    write_pth(tmp_path / "b.pth", arrays)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_safetensors_round_trip(tmp_path):
    arrays = arrays_of_every_kind() | {"wide": np.arange(3, dtype=np.uint64)}
    path = tmp_path / "a.safetensors"
    write_safetensors(path, arrays, {"format": "pt", "note": "é"})
    tensors, metadata = read_safetensors(path)
    assert_same({name: tensors[name] for name in arrays}, arrays)
    assert metadata == {"format": "pt", "note": "é"}
    assert read_tensors(path).keys() == arrays.keys()


def test_a_safetensors_header_that_looks_like_a_pickle_is_none(read):
    header = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.ljust(0x0280)
    assert read(fuzz.safetensors_file(header, b"\5"))["a"].tolist() == [5]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    write_pth(path, {"a": SIX})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_pth(path, {"a": SIX + 1})
    assert os.listdir(tmp_path) == ["a.pth"]
    np.testing.assert_array_equal(read_tensors(path)["a"], SIX)


@pytest.mark.parametrize("write", [write_pth, write_safetensors])
@pytest.mark.parametrize("array", [np.zeros(2, np.complex64), np.array(["a"]), np.array([None]), np.zeros(2, ">f4")])
def test_arrays_of_other_types_are_not_written(tmp_path, write, array):
    with pytest.raises(WeightsFileError, match="cannot hold 'a'"):
        write(tmp_path / "a", {"a": array})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("tensors", [{3: SIX}, {"__metadata__": SIX}])
def test_other_names_are_not_written_to_safetensors(tmp_path, tensors):
    with pytest.raises(WeightsFileError, match="cannot hold"):
        write_safetensors(tmp_path / "a", tensors)


def test_other_metadata_is_not_written(tmp_path):
    with pytest.raises(WeightsFileError, match="metadata other than strings"):
        write_safetensors(tmp_path / "a", {"a": SIX}, {"epoch": 3})


def test_reading_needs_neither_jax_nor_torch():
    code = "import sys, ddrnet_jax.weights.files; print({'jax', 'flax', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# --- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_code_is_refused_by_name(refusal, tmp_path, protocol):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'canary'}",)

    content = pickle.dumps({"state_dict": Evil()}, protocol)
    assert refusal(as_zip([], content)).startswith(f"refusing {os.system.__module__}.system: ")
    assert refusal(as_legacy([], content)).startswith(f"refusing {os.system.__module__}.system: ")
    assert not (tmp_path / "canary").exists()


@FORMATS
@pytest.mark.parametrize(
    ("opcodes", "line"),
    [
        (named("os.system") + text("true") + b"\x85R", "refusing os.system: only tensors"),
        (text("os") + text("system") + b"\x93", "refusing os.system: "),
        (b"(" + text("true") + b"ios\nsystem\n", "refusing os.system: "),
        (named("os.sys\x1b[31mtem"), r"refusing os.sys\x1b[31mtem: "),
        (named("torch.load"), "refusing torch.load: "),
        (named("torch.ComplexFloatStorage"), "refusing torch.ComplexFloatStorage: "),
        (named("__torch__.Network"), "refusing __torch__.Network: "),
        (named("torch.FloatStorage") + b")R", "refusing to call torch.FloatStorage; "),
        (named("torch.float32"), "refusing torch.float32 as a value"),
        (b"))R", "refusing to call what is no function"),
        (named("collections.OrderedDict") + group(b"]") + b"R", "refusing collections.OrderedDict with"),
        (b"\x82\x01", "refusing the pickle opcode EXT1"),
        (text("x") + b"Q", "it refers to something other than a whole storage"),
        (b"])\x85R", "refusing to call"),
        (b"0", "refusing the pickle opcode POP"),
        (b"\xff", r"refusing the pickle opcode b'\xff'"),
        (b"", "its pickle makes no sense"),
        (b"(t(", "its pickle makes no sense"),
        (b"e", "its pickle makes no sense"),
        (b"](NNu", "its pickle makes no sense"),
        (b"}(Nu", "its pickle makes no sense"),
        (b"]Nb", "its pickle makes no sense"),
        (b"h\x05", "its pickle makes no sense"),
        (b"}NNs", "neither a string nor an integer"),
        (b"})" + b"\x85" * 99_999 + b"Ns", "neither a string nor an integer"),
        (b"X\xff\xff\xff\x7f", "its pickle does not end"),
        (b"X\x02\x00\x00\x00\xff\xff", "text that is not UTF-8"),
        (b"]q\0h\0a", "nests values more than 64 deep"),
        (b")" + b"\x85" * 99_999, "nests values more than 64 deep"),
        (b"]" * 9_999 + b"a" * 9_998, "nests values more than 64 deep"),
        (b"N" + b"q\0h\0\x86" * 60, "nests values more than 64 deep, or within themselves"),
        (b"]" * 300_000, "its pickle has over 250000 opcodes"),
    ],
)
def test_pickles_of_anything_but_tensors_are_refused(refusal, container, opcodes, line):
    assert line in refusal(container([], program(opcodes)))


def numpy_dtype(code="f8", order="<", fields=b"N"):
    state = group(number(3), text(order), b"N", b"N", fields, number(-1), number(-1), number(0))
    return named("numpy.dtype") + group(text(code), b"\x89", b"\x88") + b"R" + state + b"b"


def numpy_bytes(content="12345678", encoding="latin1"):
    return named("_codecs.encode") + group(text(content), text(encoding)) + b"R"


def numpy_scalar(dtype, content):
    return named("numpy.core.multiarray.scalar") + group(dtype, content) + b"R"


@pytest.mark.parametrize(
    ("opcodes", "line"),
    [
        (numpy_scalar(numpy_dtype(), numpy_bytes("1234567")), "refusing numpy.core.multiarray.scalar with"),
        (numpy_scalar(numpy_dtype("f4"), numpy_bytes()), "refusing numpy.core.multiarray.scalar with"),
        (numpy_scalar(numpy_dtype(), text("12345678")), "refusing numpy.core.multiarray.scalar with"),
        (numpy_scalar(numpy_dtype(), numpy_dtype()), "refusing numpy.core.multiarray.scalar with"),
        (numpy_scalar(text("f8"), numpy_bytes()), "refusing numpy.core.multiarray.scalar with"),
        (numpy_scalar(named("numpy.dtype"), numpy_bytes()), "refusing numpy.core.multiarray.scalar with"),
        (numpy_scalar(numpy_dtype("b1", "|"), numpy_bytes("\2")), "holds bytes other than 0 and 1"),
        (numpy_dtype("O8", "|"), "refusing numpy.dtype with"),
        (numpy_dtype("O"), "refusing numpy.dtype with"),
        (numpy_dtype("V8"), "refusing numpy.dtype with"),
        (numpy_dtype("U2"), "refusing numpy.dtype with"),
        (numpy_dtype("f8,O"), "refusing numpy.dtype with"),
        (named("numpy.dtype") + group(numpy_dtype(), b"\x89", b"\x88") + b"R", "refusing numpy.dtype with"),
        (numpy_dtype(order=">"), "its pickle makes no sense"),
        (numpy_dtype(fields=b"}"), "its pickle makes no sense"),
        (numpy_bytes("123456789"), "refusing _codecs.encode with"),
        (numpy_bytes("1234567\u0100"), "refusing _codecs.encode with"),
        (numpy_bytes(encoding="idna"), "refusing _codecs.encode with"),
        (numpy_dtype(), "refusing float64 as a value"),
        (numpy_bytes(), "refusing bytes as a value"),
    ],
)
def test_numpy_scalars_of_other_types_are_refused(refusal, opcodes, line):
    assert line in refusal(as_zip([], program(opcodes)))


@FORMATS
@pytest.mark.parametrize(
    ("lie", "line"),
    [
        ({"size": (-2, -3)}, "size that is not up to 32 non-negative integers"),
        ({"size": (True, 3)}, "size that is not"),
        ({"size": (2.0, 3)}, "size that is not"),
        ({"size": (1,) * 33, "stride": (1,) * 33}, "size that is not"),
        ({"size": (0, 2**62)}, "size beyond any file"),
        ({"size": (2**40, 2**40)}, "size beyond any file"),
        ({"size": (2,)}, "no size and stride of the same length"),
        ({"offset": -1}, "offset or stride that is not a non-negative integer"),
        ({"offset": True}, "offset or stride that is not"),
        ({"offset": 1}, "6 elements up to 7, its storage has 6"),
        ({"offset": 2**64}, "its storage has 6"),
        ({"offset": 7, "size": (0, 3)}, "its storage has 6"),
        ({"stride": (-3, 1)}, "offset or stride that is not"),
        ({"stride": (4, 1)}, "6 elements up to 7, its storage has 6"),
        ({"stride": (2**62, 2**62)}, "its storage has 6"),
        ({"size": (7, 1), "stride": (0, 0)}, "7 elements up to 1, its storage has 6"),
        ({"size": (2**31,), "stride": (0,)}, "its storage has 6"),
        ({"elements": -1}, "storage 0 has -1 elements of torch.FloatStorage"),
        ({"elements": True}, "storage 0 has True elements"),
        ({"elements": 2**40}, f"storage 0 has {2**40} elements"),
        ({"elements": 6.0}, "storage 0 has 6.0 elements"),
        ({"elements": 7}, "its tensors"),
        ({"elements": 5, "size": (5,), "stride": (1,)}, "its tensors"),
        ({"kind": "Bool", "elements": 24, "offset": 6}, "holds bytes other than 0 and 1"),
    ],
)
def test_views_that_leave_their_storage_are_refused(refusal, container, lie, line):
    assert line in refusal(container([replace(SOUND, **lie)]))


@FORMATS
def test_views_that_outgrow_the_file_are_refused(refusal, container):
    data = bytes(2**16)
    views = [Tensor(f"v{i}", "0", "Byte", 2**16, i, (2**16 - 9,), (1,), data) for i in range(9)]
    assert "its tensors come to" in refusal(container(views))


@FORMATS
def test_a_storage_has_one_description(refusal, container):
    tensors = [SOUND, replace(SOUND, name="again", kind="Int")]
    assert "storage 0 is described twice, differently" in refusal(container(tensors))


def members_with(place, **changes):
    members = fuzz.pth_members([SOUND])
    members[place] = replace(members[place], **changes)
    return fuzz.zip_file(members)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (members_with(0, deflated=True), "its archive/data.pkl is compressed or encrypted"),
        (members_with(3, deflated=True, data=bytes(2**22)), "its archive/data/0 is compressed"),
        (members_with(3, packed_size=2), "its archive/data/0 is compressed"),
        (
            members_with(3, size=2**31, packed_size=2**31),
            f"its archive/data/0 has {2**31} bytes, its tensors need 24",
        ),
        (members_with(0, size=2**20, packed_size=2**20), f"archive/data.pkl is said to be {2**20} bytes"),
        (members_with(0, size=2**31, packed_size=2**31), f"its archive/data.pkl of {2**31} bytes is over"),
        (members_with(3, data=bytes(23)), "its archive/data/0 has 23 bytes, its tensors need 24"),
        (members_with(3, checksum=1), "the checksum of its archive/data/0 is wrong"),
        (members_with(0, checksum=1), "the checksum of its archive/data.pkl is wrong"),
        (members_with(3, header_offset=0), "its archive/data/0 is not where the zip directory says"),
        (members_with(3, header_offset=2**31), "archive/data/0 is said to be 30 bytes at byte"),
        (members_with(3, name="archive/data/../1"), "it has no member archive/data/0"),
        (members_with(0, name="archive/other"), "0 members data.pkl, expected 1"),
        (members_with(1, name="other/data.pkl"), "2 members data.pkl, expected 1"),
        (members_with(1, data=b"big"), "big-endian"),
        (
            fuzz.zip_file(fuzz.pth_members([SOUND]) + [Member("archive/data/0", b"")]),
            "two members named archive/data/0",
        ),
        (fuzz.zip_file(fuzz.pth_members([SOUND]), count=3), "lists 4 members, announced 3"),
        (fuzz.zip_file([Member(f"{i}", b"") for i in range(25_000)]), "its zip directory of"),
        (Legacy([SOUND], keys=[]).to_bytes(), "its list of storages is not that of its tensors"),
        (Legacy([SOUND], keys=["0", "0"]).to_bytes(), "its list of storages is not that of its tensors"),
        (Legacy([SOUND], keys=["0", "1"]).to_bytes(), "its list of storages is not that of its tensors"),
        (Legacy([SOUND], counts={"0": 5}).to_bytes(), "storage 0 has 5 elements, its tensors were told 6"),
        (Legacy([SOUND], counts={"0": -1}).to_bytes(), "storage 0 has -1 elements"),
        (Legacy([SOUND], little_endian=False).to_bytes(), "not from a little-endian machine"),
        (pickle.dumps({"a": 1}), "it is a pickle and not a file of torch.save"),
        (b"", "begins with b''"),
        (b"<!DOCTYPE html><html>", "is a web page, expected a file of torch.save or safetensors; download the weights"),
        (
            b"version https://git-lfs",
            "fetch the weights themselves: git lfs pull",
        ),
        (b"PK\x03\x04", "the end of the zip directory is said to be"),
    ],
)
def test_containers_that_lie_are_refused(refusal, content, line):
    assert line in refusal(content)


def zip_of(*names):
    return fuzz.zip_file([Member(name, b"") for name in names])


@pytest.mark.parametrize(
    ("content", "what", "way"),
    [
        (
            zip_of("net/data.pkl", "net/constants.pkl", "net/code/x.py"),
            "is a TorchScript program",
            "torch.jit.load(path",
        ),
        (zip_of("a.npy", "b.npy"), "is an .npz file of numpy", "save_file(dict(numpy.load(path))"),
        (zip_of("run/best.pth", "run/log.txt"), "is a zip archive around best.pth", "unpack it"),
        (zip_of("config.json", "model.weights.h5"), "is a file of Keras", "safetensors.numpy.save_file"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as Keras writes them", "safetensors.numpy.save_file"),
        (b"\x1f\x8b\x08", "is packed with gzip", "unpack it"),
        (b"\x93NUMPY\x01", "is a single array of numpy", "safetensors.numpy.save_file"),
        (
            pickle.dumps({"conv1.weight": np.ones(3)}, 2),
            "it holds arrays of numpy",
            "PaddlePaddle's .pdparams are such",
        ),
        (
            pickle.dumps({"conv1.weight": np.ones(3)}, 4),
            "it holds arrays of numpy",
            "PaddlePaddle's .pdparams are such",
        ),
        (b"\x80\x02cmodels.ddrnet\nDualResNet\n)\x81.", "refusing models.ddrnet.DualResNet", "a whole model was saved"),
        (b"\x80\x02}X\x01\0\0\0acargs\nOptions\n)\x81s.", "refusing args.Options", "save the tensors alone"),
        (b"\x80\x02cos\nsystem\n.", "refusing os.system", "save the tensors alone"),
        (b"\x80\x02cargparse\nNamespace\n)\x81.", "refusing argparse.Namespace", "save the tensors alone"),
    ],
)
def test_each_kind_of_file_gets_its_own_way(refusal, content, what, way):
    found, _, remedy = refusal(content).partition("; ")
    assert what in found
    assert way in remedy


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("ddrnet.pdparams", "is a file of PaddlePaddle"),
        ("model.ckpt.data-00000-of-00001", "is part of a TensorFlow checkpoint"),
        ("saved_model.pb", "is a TensorFlow graph"),
        ("ddrnet.onnx", "is an ONNX program"),
        ("weights.bin", "begins with b'????', expected a file of torch.save or safetensors; if it is packed"),
    ],
)
def test_where_the_content_says_nothing_the_name_does(tmp_path, name, what):
    (tmp_path / name).write_bytes(b"????")
    with pytest.raises(WeightsFileError, match=re.escape(f"{tmp_path / name}: {what}")):
        read_tensors(tmp_path / name)


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ({"a": ENTRY | {"dtype": "F8_E5M2"}}, "tensor a is of type F8_E5M2, not one of F64, F32"),
        ({"a": ENTRY | {"dtype": []}}, "tensor a is of type a list"),
        ({"a": ENTRY | {"shape": [2, 4]}}, "tensor a needs 32 bytes, its data_offsets 0..24 span 24"),
        ({"a": ENTRY | {"shape": [-2, -3]}}, "size that is not up to 32 non-negative integers"),
        ({"a": ENTRY | {"shape": [True, 6]}}, "size that is not"),
        ({"a": ENTRY | {"shape": [2**63, 2**63, 0], "data_offsets": [0, 0]}}, "size beyond any file"),
        ({"a": ENTRY | {"shape": 6}}, "no list for its shape"),
        ({"a": ENTRY | {"data_offsets": [0, 24.0]}}, "tensor a has data_offsets 0..24.0"),
        ({"a": ENTRY | {"data_offsets": [-24, 0]}}, "tensor a has data_offsets -24..0"),
        ({"a": ENTRY | {"data_offsets": [2**70, 2**70 + 24]}}, "tensor a has data_offsets"),
        ({"a": ENTRY | {"data_offsets": [24, 48]}}, "tensor a begins at data byte 24, expected 0"),
        ({"a": ENTRY, "b": ENTRY}, "tensor b begins at data byte 0, expected 24"),
        ({"a": ENTRY | {"extra": 1}}, "tensor a is not described by dtype, shape and data_offsets"),
        (
            {"a": ENTRY | {"shape": [5], "data_offsets": [0, 20]}},
            "its tensors need 20 bytes of data, the file has 24",
        ),
        ({"a": ENTRY, "__metadata__": {"epoch": 3}}, "its __metadata__ is not a table of strings"),
        ({"a\n\x1b[31m": []}, r"tensor a\n\x1b[31m is not described"),
        (b'{"a":1,"a":2}', "its header is not JSON (a name appears twice)"),
        (b'{"a":' * 99_999, "its header is nested without end"),
        (b'{"a":' + b"9" * 9_999 + b"}", "its header is not JSON"),
        (b'{"\xff":1}', "its header is not JSON"),
        (b"{" + b" " * 2**20, f"its header is said to have {2**20 + 1} bytes"),
    ],
)
def test_safetensors_that_lie_are_refused(refusal, header, line):
    assert line in refusal(fuzz.safetensors_file(header, SIX.tobytes()))


@pytest.mark.parametrize(
    "content", [as_zip(), as_zip64(), as_legacy(), fuzz.safetensors_file({"a": ENTRY}, SIX.tobytes())]
)
def test_every_truncation_is_refused(refusal, content):
    for length in range(len(content)):
        refusal(content[:length])


def test_a_path_without_a_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "missing.pth"):
        with pytest.raises(WeightsFileError, match="no such file; give the path of"):
            read_tensors(path)


# --- memory and hostility --------------------------------------------------------------------------------


def peak_of(path):
    tracemalloc.start()
    try:
        read_tensors(path)
    except WeightsFileError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("write", [write_pth, write_safetensors])
def test_a_large_file_is_in_memory_once(tmp_path, write):
    path = tmp_path / "weights"
    write(path, {"a": np.ones(2**22, np.float32), "b": np.zeros(2**20, np.float64)})
    assert peak_of(path) < 1.1 * path.stat().st_size


@pytest.mark.parametrize(
    "content",
    [
        as_zip([], program(b"(", b"]\x94" * 2**20)),
        as_zip([], program(b"X", (3 * 2**20 + 4).to_bytes(4, "little"), b"a" * 3 * 2**20, "\U0001f600".encode())),
        fuzz.safetensors_file(b'{"a":[' + b'{"":0},' * 140_000 + b"1]}", b""),
        fuzz.zip_file([Member(f"{i:x}", b"") for i in range(20_000)]),
    ],
    ids=["lists", "wide text", "json", "zip directory"],
)
def test_a_file_of_nothing_but_structure_stays_small(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert peak_of(path) < 2 * len(content) + 32 * 2**20


def assert_survived(seed, count):
    counts, failures = fuzz.fuzz(seed, count)
    assert not failures
    assert sum(counts.values()) == count
    assert all(counts[kind, "refused"] for kind in fuzz.HOSTILE if kind != "sound")


def test_a_thousand_hostile_files():
    assert_survived(seed=1, count=1000)


@pytest.mark.slow
def test_twenty_thousand_hostile_files():
    assert_survived(seed=0, count=20_000)
