"""The table, the JSON and the page of a benchmark, from rows whose figures are known."""

import json
import re

import pytest
from report.html_page import Page

from ddrnet_jax.benchmark import cases, device, page, report, run, timing
from ddrnet_jax.benchmark.published import CITYSCAPES_HW, PUBLISHED
from ddrnet_jax.config import DATA_SETS
from ddrnet_jax.outputs import Outputs

PEAKS = {"matmul_size": 2048, "matmul_flops_per_s": {"float32": 100e9}, "copy_bytes_per_s": 20e9}
ENGINES = [run.Engine("jax float32", None), run.Engine("onnxruntime", None, note="onnxruntime: in a test")]


def figures(latency_ms, **more):
    """Of one row, as `run.measure` returns them."""
    turn = timing.Turn(1, latency_ms / 1e3, (latency_ms / 1e3,))
    row = timing.summary([turn], cases.PROTOCOLS["mask"], 1)
    about = {"ratio": 1.0, "compile_s": 1.5, "is_from_cache": False, "bytes_accessed": 4e9, "clocks": None}
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
        assert bool(page.speeds(result)) == (data_set in (None, "cityscapes"))
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
    report.write(result, Outputs(tmp_path))
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


def page_of(result):
    """(the page as it parses, its curves as lists of (x, y), what its points say on hover)"""
    source = page.page(result, report.table_lines(result))
    parsed = Page(source)
    curves = [[tuple(map(float, p.split(","))) for p in curve["points"].split()] for curve in parsed.all("polyline")]
    return parsed, curves, re.findall(r"<circle[^>]*><title>([^<]*)</title>", source)


def measured(speeds):
    """A benchmark by the paper's protocol of {engine: {variant: frames a second}}."""
    rows = [
        (case(variant), {engine: figures(1e3 / by_variant[variant]) for engine, by_variant in speeds.items()})
        for variant in next(iter(speeds.values()))
    ]
    result = report.started(None, None, [run.Engine(name, None) for name in speeds], [c for c, _ in rows], 6.0, PEAKS)
    for each, of_engines in rows:
        about = {"network_flops": 40e9, "num_classes": 19, "png_bytes": 1}
        report.add(result, each, of_engines, [run.Engine(name, None) for name in speeds], about)
    result["versions"] = {"jax": "0.1", "torch": "2.3", "python": "3"}
    return result


def test_the_page_has_the_papers_points_and_ours():
    result = measured({"jax float32": {"23_slim": 1.4, "39": 0.2}, "torch": {"23_slim": 1.3, "39": 0.25}})
    ours = {"23_slim": pytest.approx(1.4), "39": pytest.approx(0.2)}
    found = page.speeds(result)
    assert found[page.PAPER] == {"23_slim": 101.6, "23": 37.1, "39": 22.0}
    assert found["measured here: jax float32"] == ours
    parsed, curves, said = page_of(result)
    assert [len(curve) for curve in curves] == [3, 2, 2]
    assert said[:3] == [
        f"{name}, {page.PAPER}: {fps} FPS" for name, fps in (("39", "22.0"), ("23", "37.1"), ("23-slim", "102"))
    ]
    assert "23-slim, measured here: torch: 1.30 FPS" in said
    assert parsed.row("frames a second") == ["23-slim, 77.4 %", "23, 79.4 %", "39, 80.4 %"]
    assert parsed.row(f"● {page.PAPER}") == ["102", "37.1", "22.0"]
    assert parsed.row("● measured here: torch") == ["1.30", "–", "0.25"]
    assert "Different machines" in parsed.text
    assert "jax 0.1, torch 2.3." in parsed.text
    assert "30 FPS" in parsed.text


def test_faster_is_further_right_and_better_is_higher():
    speeds = {
        "jax float32": {"23_slim": 100.0, "23": 40.0, "39": 10.0},
        "torch": {"23_slim": 10.0, "23": 4.0, "39": 1.0},
    }
    _, (paper, *ours), _ = page_of(measured(speeds))
    for curve in (paper, *ours):
        assert curve == sorted(curve), "from the slowest to the fastest"
        assert [y for _, y in curve] == [y for _, y in paper], "the mIoU is the published one"
        assert paper[0][1] < paper[1][1] < paper[2][1], "down is more in SVG"
        assert all(52 <= x <= 406 and 12 <= y <= 210 for x, y in curve), "within the axes"
    steps = [x - other for (x, _), (other, _) in zip(*ours, strict=True)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2), "ten times as fast is as far everywhere"
    assert steps[0] > 0


def test_the_page_is_the_table_as_well_and_loads_nothing(result, tmp_path):
    report.write(result, Outputs(tmp_path))
    source = (tmp_path / "benchmark.html").read_text()
    parsed = Page(source)
    for line in report.table_lines(result):
        assert line in parsed.text
    assert "<script" not in source
    assert not parsed.all("img")
    assert [a["href"] for a in parsed.all("link")] == ["data:,"]
    assert "default-src 'none'" in parsed.all("meta")[2]["content"]
    colors = {
        name for tag in ("polyline", "circle", "b") for a in parsed.all(tag) for name in a.get("class", "").split()
    }
    assert all(f".{name} {{" in source for name in colors)


def test_only_the_papers_protocol_at_its_size_is_drawn(result):
    found = page.speeds(result)
    assert [*found] == [page.PAPER, "measured here: jax float32", "measured here: onnxruntime"]
    assert [*found.values()][1:] == [{"23_slim": 1.25}, {"23_slim": 2.0}]
    without = result_of([(case("23", (720, 960)), {e.label: figures(9.0) for e in ENGINES})])
    assert page.speeds(without) == {}
    parsed, curves, _ = page_of(without)
    assert not curves
    assert not parsed.all("svg")
    assert "720x960   23      jax float32" in parsed.text


def test_every_published_row_has_a_source():
    assert all(row.source and 0 < row.miou < 1 and row.fps > 1 for row in PUBLISHED.values())
    assert all(("recalled" in row.source) != row.is_checked for row in PUBLISHED.values())
    assert {row.data_set for row in PUBLISHED.values()} <= set(DATA_SETS)
