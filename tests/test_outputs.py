"""Files of ours are written again; what a user has put there, or changed, or gives as an input, stays as it is."""

import os

import pytest

from ddrnet_jax import outputs
from ddrnet_jax.data import files
from ddrnet_jax.data.sets import patterns
from ddrnet_jax.outputs import OutputError, Outputs


def test_files_of_ours_are_written_again_by_another_run(tmp_path):
    for text in (b"first", b"second", b"first"):
        outputs = Outputs(tmp_path / "out")
        outputs.require(["masks/0.png"])
        outputs.write("masks/0.png", text)
        assert (tmp_path / "out" / "masks" / "0.png").read_bytes() == text
    assert sorted(os.listdir(tmp_path / "out")) == [".ddrnet_jax", "masks"]
    assert os.listdir(tmp_path / "out" / "masks") == ["0.png"]


def label(folder):
    (folder / "0.png").write_bytes(b"a label of the user's")


def edited(folder):
    Outputs(folder).write("0.png", b"ours")
    (folder / "0.png").write_bytes(b"ours, mended by hand")


def linked(folder):
    Outputs(folder).write("1.png", b"ours")
    (folder / "0.png").symlink_to("1.png")


def taken_for_a_record(folder):
    label(folder)
    (folder / ".ddrnet_jax").write_bytes(b'[1]\n{"file": "0.png", "sha256": "0"}\n\xff\n')


def dangling(folder):
    (folder / "0.png").symlink_to("nowhere")


@pytest.mark.parametrize("put", [label, edited, linked, taken_for_a_record, dangling, lambda f: (f / "0.png").mkdir()])
def test_what_is_not_ours_is_refused_before_and_while_writing(tmp_path, put):
    put(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != ".ddrnet_jax"}
    outputs = Outputs(tmp_path)
    for attempt in (lambda: outputs.require(["a.png", "0.png"]), lambda: outputs.write("0.png", b"a prediction")):
        with pytest.raises(OutputError, match=r"0\.png: is not of this program.* choose another --output") as e:
            attempt()
        assert "\n" not in str(e.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != ".ddrnet_jax"} == before


def test_an_input_is_not_written_over_though_we_wrote_it_whatever_its_name(tmp_path):
    Outputs(tmp_path).write("masks/0.png", b"ours")
    os.link(tmp_path / "masks" / "0.png", tmp_path / "other name.png")
    outputs = Outputs(tmp_path, inputs=[tmp_path / "gone.png", tmp_path / "other name.png"])
    with pytest.raises(OutputError, match=r"masks/0\.png: is read as an input"):
        outputs.require(["masks/0.png"])


def test_what_a_user_puts_there_meanwhile_stays(tmp_path):
    outputs = Outputs(tmp_path)
    outputs.require(["0.png"])

    def write():
        with outputs.replacing("0.png") as partial:
            partial.write_bytes(b"a prediction")
            label(tmp_path)

    with pytest.raises(OutputError):
        write()
    assert (tmp_path / "0.png").read_bytes() == b"a label of the user's"
    assert os.listdir(tmp_path) == ["0.png"]


def test_a_part_is_kept_only_where_it_is_of_use(tmp_path):
    def break_off(keeps_part):
        with Outputs(tmp_path).replacing("a.mkv", keeps_part=keeps_part) as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    for keeps_part in (False, True):
        with pytest.raises(KeyboardInterrupt):
            break_off(keeps_part)
        assert (tmp_path / "a.mkv").exists() == keeps_part
    Outputs(tmp_path).require(["a.mkv"])


@pytest.mark.parametrize("name", ["x" * 250 + ".png", "caf\udce9.png", "a\nb.png"])
def test_every_name_that_a_file_can_have_is_written_and_known_again(tmp_path, name):
    for text in (b"1", b"2"):
        Outputs(tmp_path).write(name, text)
    assert (tmp_path / name).read_bytes() == b"2"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"--output .*file/a.png: cannot be written"):
        Outputs(tmp_path / "file").require(["a.png"])


def test_results_in_a_folder_are_no_inputs_until_somebody_changes_them(tmp_path):
    (tmp_path / "street.png").write_bytes(b"")
    Outputs(tmp_path).write("legend.png", b"ours")
    Outputs(tmp_path).write("masks/street.png", b"ours")
    assert outputs.written_in(tmp_path) == {"legend.png"}
    assert files.files_by_stem(tmp_path, "images").keys() == {"street"}
    assert patterns.find(tmp_path, "{stem}.png", "train", "images").keys() == {"street", "masks/street"}
    (tmp_path / "legend.png").write_bytes(b"a picture of the user's")
    assert outputs.written_in(tmp_path) == frozenset()
    assert outputs.written_in(tmp_path / "masks") == frozenset()  # which may be labels to train on
