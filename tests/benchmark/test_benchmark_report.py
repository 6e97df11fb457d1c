"""The table, the JSON and the plot of a benchmark, from rows whose figures are known."""

import itertools
import json

import cv2
import numpy as np
import pytest

from ddrnet_jax.benchmark import cases, device, plot, report, run, timing
from ddrnet_jax.benchmark.published import CITYSCAPES_HW, PUBLISHED
from ddrnet_jax.config import DATA_SETS
from ddrnet_jax.models.ddrnet import VARIANTS

PEAKS = {"matmul_size": 2048, "matmul_flops_per_s": {"float32": 100e9}, "copy_bytes_per_s": 20e9}
ENGINES = [run.Engine("jax float32", None), run.Engine("onnxruntime", None, note="onnxruntime: in a test")]


def figures(latency_ms, **more):
    """Of one row, as `run.measure` returns them."""
    turn = timing.Turn(1, latency_ms / 1e3, (latency_ms / 1e3,))
    row = timing.summary([turn], cases.PROTOCOLS["mask"], 1)
    about = {"ratio": 1.0, "compile_s": 1.5, "is_from_cache": False, "bytes_accessed": 4e9}
    memory = {"argument_bytes": 24 * 2**20, "output_bytes": 2**20, "temporary_bytes": 300 * 2**20}
    return row | about | {"memory": memory} | more


def result_of(measured, peaks=PEAKS, *, checkpoint=None, data_set=None):
    """A finished benchmark of (case, {engine: figures})."""
    wanted = [case for case, _ in measured]
    result = report.started(checkpoint, data_set, ENGINES, wanted, 6.0, peaks)
    for case, rows in measured:
        about = {"network_flops": 40e9, "num_classes": 19, "png_bytes": 2_500_000}
        report.add(result, case, rows, ENGINES, about)
    report.finish(result, elapsed_s=12.0)
    return result


def case(variant="23_slim", size_hw=CITYSCAPES_HW, protocol="paper", batch=1):
    return cases.Case(variant, size_hw, cases.PROTOCOLS[protocol], batch)


@pytest.fixture
def result():
    slow = 98765.4
    theirs = {"ratio": 0.63, "compile_s": 0.1, "memory": None, "bytes_accessed": None}
    return result_of(
        [
            (case(), {"jax float32": figures(800.0), "onnxruntime": figures(500.0, **theirs)}),
            (case("39", protocol="mask"), {"jax float32": figures(slow), "onnxruntime": {"error": "no such " * 20}}),
            (case(batch=16), {e.label: {"error": "does not fit in memory: needs 40 GiB"} for e in ENGINES}),
            (
                case("23", (720, 960), "file"),
                {"jax float32": figures(2500.0), "onnxruntime": figures(3500.0, **theirs)},
            ),
            (case("23", (720, 960)), {"jax float32": figures(2500.0), "onnxruntime": figures(3500.0, **theirs)}),
        ]
    )


def lines_with(result, *parts):
    return [line for line in report.table_lines(result) if all(part in line for part in parts)]


def test_the_table_fits_80_columns_and_says_every_row(result):
    lines = report.table_lines(result)
    assert max(map(len, lines)) <= 80
    assert lines_with(result, "1024x2048 23_slim jax float32", "800.0", "1.25", "50%", "1.00", "102")
    assert lines_with(result, "1024x2048 23_slim onnxruntime", "500.0", "2.00", "80%", "0.63", "102")
    assert lines_with(result, "1024x2048 39      jax float32", "98765.4")
    assert len(lines_with(result, "does not fit in memory")) == 2
    assert lines_with(result, "720x960   23      jax float32", "94*"), "recalled figures are marked"
    assert " ".join(lines).count("no such") == 20, "a long reason is wrapped, not cut"
    assert not lines_with(result, "NOT FINISHED")
    text = " ".join(lines)
    assert "another machine than this one" in text
    assert "recalled, not checked" in text
    assert "Random weights, classes: 19 at 1024x2048, 19 at 720x960. For speed they are as good as any, except" in text
    assert "waited for once, or with several engines once a turn (up to 10)" in text
    assert "onnxruntime: in a test" in text
    assert "720x960 of 2.5 MB" in text


def test_figures_of_another_data_set_stand_beside_no_checkpoint(tmp_path):
    measured = [(case(), {e.label: figures(9.0) for e in ENGINES})]
    measured += [(case("23", (720, 960)), {e.label: figures(9.0) for e in ENGINES})]
    expected = {None: [True, True], "cityscapes": [True, False], "camvid": [False, True], "scenes": [False, False]}
    for data_set, has_published in expected.items():
        result = result_of(measured, checkpoint=data_set and "runs/x", data_set=data_set)
        assert [row["published"] is not None for row in result["rows"][:: len(ENGINES)]] == has_published
        assert (plot.layout(result) is not None) == (data_set in (None, "cityscapes"))
        header = lines_with(result, "network engine")[0]
        assert header.endswith("paper") == any(has_published)
        text = " ".join(report.table_lines(result))
        assert (f"Weights: runs/x, trained on {data_set}: beside them stand no figures" in text) == bool(data_set)


def test_p95_needs_twenty_forwards():
    def table_of(calls):
        turn = timing.Turn(calls, 0.9 * calls, tuple([0.9] * calls))
        row = figures(900.0) | timing.summary([turn], cases.PROTOCOLS["mask"], 1)
        return lines_with(result_of([(case(protocol="mask"), {e.label: row for e in ENGINES})]), "900.0")[0]

    assert table_of(19).split()[2:8] == ["jax", "float32", "1", "900.0", "-", "1.11"]
    assert table_of(20).count("900.0") == 2


def test_a_long_size_stays_apart_from_what_follows():
    result = result_of([(case("39", (10240, 20480)), {e.label: figures(98765.4) for e in ENGINES})])
    assert len(lines_with(result, "10240x20480 39      ")) == 4, "of both engines, and their programs"
    assert max(map(len, report.table_lines(result))) <= 80


def test_fractions_are_of_what_the_device_reaches(result):
    first, second = result["rows"][:2]
    assert first["fraction_of_matmul"] == pytest.approx(40e9 / 0.8 / 100e9)
    assert first["fraction_of_copy"] == pytest.approx(4e9 / 0.8 / 20e9)
    assert second["fraction_of_copy"] is None, "nobody counts the bytes of another engine"
    batch = result_of([(case(batch=4), {e.label: figures(800.0) for e in ENGINES})])["rows"][0]
    assert batch["fraction_of_matmul"] == pytest.approx(4 * first["fraction_of_matmul"])


def test_our_programs_are_listed_with_what_they_cost(result):
    assert lines_with(result, "paper float32", "1.5 s", "325 MiB", "3815 MiB", "25%")
    cached = result_of([(case(), {e.label: figures(800.0, is_from_cache=True, memory={}) for e in ENGINES})])
    assert not lines_with(cached, "1.5 s")


def test_json_is_complete_and_reads_back(result, tmp_path):
    report.write(result, tmp_path)
    kept = json.loads((tmp_path / "benchmark.json").read_text())
    assert kept == json.loads(json.dumps(result))
    assert (tmp_path / "benchmark.txt").read_text().splitlines() == report.table_lines(result)
    assert {"device", "versions", "peaks", "protocols", "compiler_options", "engines", "finished"} <= kept.keys()
    assert {"cpu", "cpu_cores", "platform", "device"} <= kept["device"].keys()
    assert {"python", "jax", "jaxlib"} <= kept["versions"].keys()
    assert all(
        "recalled" in row["published"]["source"] for row in kept["rows"] if row["variant"] == "23" and row["published"]
    )
    assert not list(tmp_path.glob(".*.partial"))


def test_what_was_stopped_says_so():
    result = report.started(None, None, ENGINES, [case(), case(batch=2), case(batch=4)], 6.0, PEAKS)
    report.add(
        result,
        case(),
        {e.label: figures(1.0) for e in ENGINES},
        ENGINES,
        {"network_flops": None, "num_classes": 19, "png_bytes": 1},
    )
    assert "NOT FINISHED: 1 of 3 cases" in report.table_lines(result)
    assert result["rows"][0]["fraction_of_matmul"] is None


def test_the_higher_of_two_measurements_of_a_peak_counts():
    second = {"matmul_size": 2048, "matmul_flops_per_s": {"float32": 90e9}, "copy_bytes_per_s": 30e9}
    best = {"matmul_size": 2048, "matmul_flops_per_s": {"float32": 100e9}, "copy_bytes_per_s": 30e9}
    assert device.best_of(PEAKS, second) == device.best_of(second, PEAKS) == best


def plotted(speeds):
    """The layout for {engine: {variant: frames a second}}."""
    rows = [
        {"protocol": "paper", "size_hw": [1024, 2048], "batch": 1, "error": None, "variant": v, "engine": e, "fps": fps}
        for e, of_engine in speeds.items()
        for v, fps in of_engine.items()
    ]
    versions = {"jax": "0.1", "torch": "2.3", "python": "3"}
    return plot.layout({"rows": rows, "device": device.description(), "versions": versions, "data_set": None})


def test_the_plot_has_the_papers_points_and_ours():
    found = plotted({"jax float32": {"23_slim": 1.4, "39": 0.2}, "torch": {"23_slim": 1.3}})
    paper, ours, torch = found.series
    assert "2080 Ti" in paper.name
    assert [(p.fps, p.miou) for p in paper.points] == [(22.0, 0.804), (37.1, 0.794), (101.6, 0.774)]
    assert [(p.fps, p.miou) for p in ours.points] == [(0.2, 0.804), (1.4, 0.774)]
    assert [p.label for p in torch.points] == ["23-slim: 1.3"]
    assert "jax float32" in ours.name
    assert "Different machines" in found.caption
    assert "jax 0.1, torch 2.3." in found.caption
    for fps, (low, high) in itertools.product((0.2, 101.6), [found.fps_range]):
        assert low < fps < high
    assert found.fps_ticks == (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def test_only_the_papers_protocol_at_its_size_is_drawn(result, tmp_path):
    assert [s.name for s in plot.layout(result).series] == [
        plot.PAPER,
        "measured here: jax float32",
        "measured here: onnxruntime",
    ]
    assert all(len(s.points) == 1 for s in plot.layout(result).series[1:])
    without = result_of([(case("23", (720, 960)), {e.label: figures(9.0) for e in ENGINES})])
    (tmp_path / plot.PLOT_NAME).write_bytes(b"of an earlier benchmark")
    assert plot.write(without, tmp_path) is None
    assert not (tmp_path / plot.PLOT_NAME).exists()
    picture = cv2.imread(str(plot.write(result, tmp_path)))
    assert picture.shape == (1000, 1600, 3)
    x, y = (round(v) for v in plot.place(plot.layout(result), 1.25, 0.774))
    assert tuple(picture[y, x, ::-1]) == plot.layout(result).series[1].color


def test_labels_neither_overlap_nor_leave_the_axes():
    rng = np.random.default_rng(0)
    for _ in range(8):
        slim = 10 ** rng.uniform(0, 2.5)
        speeds = {
            name: {v: slim * share * 2 ** rng.uniform(-1, 1) for v, share in zip(VARIANTS, (1, 0.3, 0.16), strict=True)}
            for name in ("jax float32", "jax tf32", "jax bfloat16", "torch")
        }
        boxes = list(plot.label_boxes(plotted(speeds)).values())
        assert len(boxes) == 15
        assert all(b[0] >= 150 and b[2] <= 1550 and b[1] >= 180 and b[3] <= 780 for b in boxes)
        for a, b in itertools.combinations(boxes, 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_every_published_row_has_a_source():
    assert all(row.source and 0 < row.miou < 1 and row.fps > 1 for row in PUBLISHED.values())
    assert all(("recalled" in row.source) != row.is_checked for row in PUBLISHED.values())
    assert {row.data_set for row in PUBLISHED.values()} <= set(DATA_SETS)
