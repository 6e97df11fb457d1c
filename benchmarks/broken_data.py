"""Two hundred broken files and labels through check_data and through the way of the training data.

python benchmarks/broken_data.py [--cases N] [--seed S]

Each case is a small sound data set with one thing broken in it: which sample, where and how comes from the seed. Asked
is that check_data names the file, that what feeds the training (the quick check, a source, and the batches made from
it) stops with one line that names it, and that neither ends in a traceback nor goes on as if nothing were. Two sound
data sets are the control. Prints a table kind x count x outcome; the exit code is 1 if a case was not named. About a
minute on 2 CPU cores.

JPEG images with a wrong byte in the middle are not among the kinds: most decode to a picture with a blemish. What the
decoder says of them, check_data and prepare_data repeat as a warning (tests/data/check/test_jpegs.py).
"""

import argparse
import collections
import contextlib
import io
import itertools
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from ddrnet_jax import main as main_lib
from ddrnet_jax.data import pipeline, transforms
from ddrnet_jax.data.check import check
from ddrnet_jax.data.errors import DataError
from ddrnet_jax.data.sets.folder import folder_spec
from ddrnet_jax.data.sources import FolderPairs

HEIGHT, WIDTH, COUNTS = 48, 64, {"train": 6, "val": 4}
CLASSES = ("background", "road", "car")
COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 142))


class Case:
    """A data set and the sample in it that is to be broken."""

    def __init__(self, root: Path, rng: np.random.Generator):
        self.root, self.rng = root, rng
        self.split = str(rng.choice(list(COUNTS)))
        self.stem = str(rng.integers(COUNTS[self.split]))
        self.image = root / "images" / self.split / f"{self.stem}.png"
        self.label = root / "labels" / self.split / f"{self.stem}.png"

    def write_label(self, array: np.ndarray) -> Path:
        """Another label in the place of the sound one."""
        self.label.write_bytes(cv2.imencode(".png", array)[1].tobytes())
        return self.label

    def read_label(self) -> np.ndarray:
        """The sound label."""
        return cv2.imread(str(self.label), cv2.IMREAD_UNCHANGED)

    def patch(self, label: np.ndarray, value) -> np.ndarray:
        """The label with the value in a random rectangle."""
        top, left = self.rng.integers(HEIGHT - 1), self.rng.integers(WIDTH - 1)
        label[top : top + self.rng.integers(1, HEIGHT), left : left + self.rng.integers(1, WIDTH)] = value
        return label

    def cut(self, path: Path) -> Path:
        """The file without its end."""
        data = path.read_bytes()
        path.write_bytes(data[: self.rng.integers(1, len(data))])
        return path


def empty_file(case: Case) -> Path:
    """Of an image or a label."""
    path = (case.image, case.label)[case.rng.integers(2)]
    path.write_bytes(b"")
    return path


def truncated_png_image(case: Case) -> Path:
    """Anywhere."""
    return case.cut(case.image)


def truncated_jpeg_image(case: Case) -> Path:
    """Anywhere."""
    path = case.image.with_suffix(".jpg")
    path.write_bytes(cv2.imencode(".jpg", cv2.imread(str(case.image)))[1].tobytes())
    case.image.unlink()
    return case.cut(path)


def truncated_label(case: Case) -> Path:
    """Anywhere."""
    return case.cut(case.label)


def flipped_bits_in_a_png(case: Case) -> Path:
    """One to three, in an image or a label."""
    path = (case.image, case.label)[case.rng.integers(2)]
    data = bytearray(path.read_bytes())
    for at in case.rng.choice(len(data), case.rng.integers(1, 4), replace=False):
        data[at] ^= 1 << int(case.rng.integers(8))
    path.write_bytes(data)
    return path


def other_bytes_under_the_name_of_a_png(case: Case) -> Path:
    """Noise, zeros or a web page."""
    path = (case.image, case.label)[case.rng.integers(2)]
    size = int(case.rng.integers(1, 5000))
    path.write_bytes((case.rng.bytes(size), bytes(size), b"<html>404 not found</html>")[case.rng.integers(3)])
    return path


def link_to_nowhere(case: Case) -> Path:
    """A file that was moved away."""
    path = (case.image, case.label)[case.rng.integers(2)]
    path.unlink()
    path.symlink_to(case.root / "moved" / path.name)
    return path


def nothing(case: Case) -> Path:
    """The control."""
    return case.image


def image_without_label(case: Case) -> Path:
    """The label is gone."""
    case.label.unlink()
    return case.image


def label_without_image(case: Case) -> Path:
    """The image is gone."""
    case.image.unlink()
    return case.label


def two_images_of_one_stem(case: Case) -> Path:
    """Which one is it?"""
    path = case.image.with_suffix(".bmp")
    path.write_bytes(cv2.imencode(".bmp", cv2.imread(str(case.image)))[1].tobytes())
    return path


def label_of_another_size(case: Case) -> Path:
    """Larger, smaller, or turned."""
    size_hw = (WIDTH, HEIGHT) if case.rng.random() < 0.2 else case.rng.integers(1, 100, 2)
    return case.write_label(np.zeros(size_hw, np.uint8))


def value_of_no_class(case: Case) -> Path:
    """A rectangle of it."""
    return case.write_label(case.patch(case.read_label(), case.rng.integers(3, 255)))


def label_of_16_bits(case: Case) -> Path:
    """The same values, wider."""
    return case.write_label(case.read_label().astype(np.uint16))


def label_as_jpeg(case: Case) -> Path:
    """Under a name of either kind."""
    data = cv2.imencode(".jpg", case.read_label())[1].tobytes()
    path = case.label if case.rng.random() < 0.5 else case.label.with_suffix(".jpg")
    case.label.unlink()
    path.write_bytes(data)
    return path


def colour_mask_among_index_masks(case: Case) -> Path:
    """In the colours of the classes, or as three equal channels."""
    ids = case.read_label()
    colors = np.array(COLORS, np.uint8)[..., ::-1]
    return case.write_label(colors[ids] if case.rng.random() < 0.7 else np.repeat(ids[..., None], 3, 2))


def colour_of_no_class(case: Case) -> Path:
    """A rectangle of it."""
    return case.write_label(case.patch(case.read_label(), case.rng.integers(1, 64, 3)))


def index_mask_among_colour_masks(case: Case) -> Path:
    """With at least one value that is no grey among the colours."""
    return case.write_label(case.patch(np.zeros((HEIGHT, WIDTH), np.uint8), case.rng.integers(1, 3)))


def colour_mask_with_blended_edges(case: Case) -> Path:
    """Resized on the way."""
    label = cv2.resize(case.read_label(), None, fx=0.7, fy=0.7, interpolation=cv2.INTER_LINEAR)
    return case.write_label(cv2.resize(label, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR))


OF_INDEX_MASKS = (
    *(empty_file, truncated_png_image, truncated_jpeg_image, truncated_label, flipped_bits_in_a_png),
    *(other_bytes_under_the_name_of_a_png, link_to_nowhere, image_without_label, label_without_image),
    *(two_images_of_one_stem, label_of_another_size, value_of_no_class, label_of_16_bits, label_as_jpeg),
    colour_mask_among_index_masks,
)
OF_COLOR_MASKS = (colour_of_no_class, index_mask_among_colour_masks, colour_mask_with_blended_edges)
KINDS = OF_INDEX_MASKS + OF_COLOR_MASKS
# A label without image is no sample, so training goes on with a warning; of sound data nothing is said.
WISHED = {label_without_image.__name__: ("named", "warned"), nothing.__name__: ("silent", "silent")}


def write_sound(root: Path, colors: tuple) -> None:
    """A data set with nothing wrong."""
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            ids = rng.integers(0, 3, (HEIGHT // 8, WIDTH // 8)).repeat(8, 0).repeat(8, 1)
            label = np.array(colors, np.uint8)[ids][..., ::-1] if colors else ids.astype(np.uint8)
            image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            cv2.imwrite(str(root / "images" / split / f"{i}.png"), image)
            cv2.imwrite(str(root / "labels" / split / f"{i}.png"), label)


def write_config(path: Path, root: Path, colors: tuple) -> Path:
    """A user's own config."""
    path.write_text(
        "from ddrnet_jax.config import base\n"
        "def get_config():\n"
        "    config = base()\n"
        "    config.data.name = 'folder'\n"
        f"    config.data.root = {str(root)!r}\n"
        f"    config.data.classes = {CLASSES}\n"
        f"    config.data.colors = {colors}\n"
        f"    config.data.crop_hw = {HEIGHT, WIDTH}\n"
        "    return config\n"
    )
    return path


def checked(config: Path, output: Path, broken: Path, root: Path) -> str:
    """What check_data makes of the data set: "named", "silent" or the name of an exception."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main_lib.main(["--config", str(config), "--mode", "check_data", "--output", str(output)])
    except Exception as e:
        return type(e).__name__
    findings = (output / "findings.txt").read_text()
    is_told = "error: " in findings if code else "warning: " in findings
    is_named = is_told and _is_named(broken, root, " ".join(findings.split()))
    return "named" if is_named and "Traceback" not in said.getvalue() else "silent"


def _is_named(broken: Path, root: Path, text: str) -> bool:
    """Whether a text tells which file; of two of one stem, both."""
    return str(broken.relative_to(root)) in text or f"{broken.with_suffix('.png').name} and {broken.name}" in text


def trained_on(root: Path, colors: tuple, broken: Path) -> str:
    """What feeds an epoch of training and an evaluation says: "named", "warned", "silent" or an exception's name."""
    outcomes = set()
    for read in (_read_quickly, _read_one_by_one, _read_in_batches):
        try:
            lines = read(*(FolderPairs(root, split, folder_spec(CLASSES, colors)) for split in COUNTS))
            outcomes.add("warned" if any(_is_named(broken, root, line) for line in lines) else "silent")
        except DataError as e:
            is_one_line = len(str(e).splitlines()) == 1
            outcomes.add("named" if _is_named(broken, root, str(e)) and is_one_line else "silent")
        except Exception as e:
            outcomes.add(type(e).__name__)
    if outcomes == {"warned", "silent"}:  # the quick part warned, and the rest had nothing to read
        return "warned"
    return " and ".join(sorted(outcomes))


def _read_quickly(train: FolderPairs, held_out: FolderPairs) -> list[str]:
    return check.quick(train, held_out, crop_hw=(HEIGHT, WIDTH), scale_range=(0.5, 2.0))


def _read_one_by_one(train: FolderPairs, held_out: FolderPairs) -> list[str]:
    for source in (train, held_out):
        for index in range(len(source)):
            source[index]
    return []


def _read_in_batches(train: FolderPairs, held_out: FolderPairs) -> list[str]:
    augment = transforms.Augment((HEIGHT, WIDTH), (0.5, 2.0), flip=True)
    with contextlib.closing(pipeline.train_batches(train, augment, seed=0, batch_size=2)) as batches:
        for _ in range(-(-len(train) // 2)):
            next(batches)
    with contextlib.closing(pipeline.samples_in_order(held_out)) as samples:
        collections.deque(samples, maxlen=0)
    return []


def run(cases: int, seed: int, folder: Path) -> dict[str, list[tuple[str, str]]]:
    """{kind: [(outcome of check_data, outcome of training), one a case]}"""
    sound, configs, root = {}, {}, folder / "data"
    for colors in ((), COLORS):
        sound[colors] = folder / f"sound_{len(colors)}"
        write_sound(sound[colors], colors)
        configs[colors] = write_config(folder / f"config_{len(colors)}.py", root, colors)
    outcomes = {kind.__name__: [] for kind in (nothing, *KINDS)}
    plan = [(nothing, ()), (nothing, COLORS)]
    plan += [(kind, COLORS if kind in OF_COLOR_MASKS else ()) for _, kind in zip(range(cases), itertools.cycle(KINDS))]
    for number, (kind, colors) in enumerate(plan):
        shutil.copytree(sound[colors], root)
        broken = kind(Case(root, np.random.default_rng((seed, number))))
        outcome = checked(configs[colors], folder / "out", broken, root), trained_on(root, colors, broken)
        outcomes[kind.__name__].append(outcome)
        shutil.rmtree(root)
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {len(plan)}", end="", file=sys.stderr)
    return outcomes


def is_as_wished(kind: str, outcome: tuple[str, str]) -> bool:
    """Whether check_data and training said what they should."""
    return outcome == WISHED.get(kind, ("named", "named"))


def main() -> int:
    """Prints the table; 1 if a case was not named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(arguments.cases, arguments.seed, Path(folder))
    print(f"{'kind':<38}{'cases':>6}  {'check_data':<22}training data")
    for kind, pairs in outcomes.items():
        columns = [collections.Counter(outcome[i] for outcome in pairs) for i in range(2)]
        checks, training = (", ".join(f"{n} {what}" for what, n in column.items()) for column in columns)
        print(f"{kind:<38}{len(pairs):>6}  {checks:<22}{training}")
    wrong = sum(not is_as_wished(kind, outcome) for kind, pairs in outcomes.items() for outcome in pairs)
    print(f"{arguments.cases} cases, {wrong} not named or ended in a traceback")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
