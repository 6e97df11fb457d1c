"""A benchmark as JSON, as a table of at most 80 columns, and as a page."""

import json
import os
from pathlib import Path

from ddrnet_jax.benchmark import clocks, device, page
from ddrnet_jax.benchmark.cases import MIN_CALLS, PROTOCOLS, WARM_UPS, Case, least_warm_up_s
from ddrnet_jax.benchmark.published import HARDWARE, PUBLISHED, SPEED_PROTOCOL
from ddrnet_jax.benchmark.timing import ROUNDS
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.runtime import compilation
from ddrnet_jax.text import percent, size, three_digits, versions, wrapped

JSON_NAME, TABLE_NAME, PAGE_NAME = "benchmark.json", "benchmark.txt", "benchmark.html"
_CALLS_OF_P95 = 20  # of fewer it is little else than the slowest
_SPEED = f"{'size':<10}{'network':<8}{'engine':<14}{'batch':>5}{'ms':>9}{'p95':>9}{'FPS':>8}{'peak':>5}{'x':>6}"
_PROGRAM = f"{'size':<10}{'network':<8}{'program':<20}{'compile':>9}{'memory':>10}{'accessed':>10}{'of copy':>8}"


def started(
    checkpoint: str | Path | None,
    data_set: str | None,
    engines: list,
    cases: list[Case],
    seconds: float,
    peaks: dict,
    about_clocks: dict | None = None,
) -> dict:
    """The report before the first case.

    data_set      that the checkpoint was trained on; None of random weights
    about_clocks  of clocks.Clocks
    """
    packages = [package for engine in engines for package in engine.packages]
    return {
        "finished": False,
        "weights": str(checkpoint) if checkpoint else "random",
        "data_set": data_set,
        "seconds_a_row": seconds,
        "warm_ups": WARM_UPS,
        "protocols": {name: PROTOCOLS[name].meaning for name in dict.fromkeys(c.protocol.name for c in cases)},
        "engines": [{"label": e.label, "precision": e.precision, "note": e.note} for e in engines],
        "device": device.description(),
        "load_before": device.load(),
        "versions": device.versions(packages),
        "compiler_options": dict(compilation.options()),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "clocks": about_clocks,
        "cases": len(cases),
        "peaks": peaks,
        "published": {"hardware": HARDWARE, "protocol": SPEED_PROTOCOL},
        "rows": [],
        "files": [JSON_NAME, TABLE_NAME, PAGE_NAME],
    }


def add(result: dict, case: Case, measured: dict[str, dict], engines: list, about: dict) -> None:
    """The rows of a case, by engine.

    about  further entries of each; network_flops: of the network alone for one image, or None
    """
    is_published = case.protocol.name == "paper" and case.batch == 1
    published = PUBLISHED.get((case.variant, case.size_hw)) if is_published else None
    if published and result["data_set"] not in (None, published.data_set):
        published = None
    for engine in engines:
        row = {
            "variant": case.variant,
            "size_hw": list(case.size_hw),
            "protocol": case.protocol.name,
            "batch": case.batch,
            "engine": engine.label,
            "precision": engine.precision,
            "error": None,
            "published": published._asdict() if published else None,
        }
        result["rows"].append(row | about | measured[engine.label])
    _add_fractions(result)


def finish(result: dict, elapsed_s: float) -> None:
    """After the last case, when the peaks are known for good."""
    _add_fractions(result)
    result |= {"finished": True, "elapsed_s": elapsed_s}


def _add_fractions(result: dict) -> None:
    peaks = result["peaks"]
    for row in result["rows"]:
        if row["error"]:
            continue
        seconds = row["latency_ms"] / 1e3
        flops, accessed = row["network_flops"], row["bytes_accessed"]
        best = peaks["matmul_flops_per_s"].get(row["precision"])
        row["fraction_of_matmul"] = flops and best and flops * row["batch"] / seconds / best
        row["fraction_of_copy"] = accessed and accessed / seconds / peaks["copy_bytes_per_s"]


def write(result: dict, outputs: Outputs) -> None:
    """OUTPUT/benchmark.json, OUTPUT/benchmark.txt and OUTPUT/benchmark.html, each whole at every moment."""
    lines = table_lines(result)
    texts = {
        JSON_NAME: json.dumps(result, indent=1) + "\n",
        TABLE_NAME: "\n".join(lines) + "\n",
        PAGE_NAME: page.page(result, lines),
    }
    for name, text in texts.items():
        outputs.write(name, text.encode("utf-8", "replace"))


def case_name(case: Case) -> str:
    """As progress calls it."""
    batch = f", batch {case.batch}" if case.batch > 1 else ""
    return f"{case.protocol.name} {size(case.size_hw)} {case.variant}{batch}"


def table_lines(result: dict) -> list[str]:
    """The report for people."""
    lines = [f"DDRNet on {device.label(result['device'])}", ""]
    if not result["finished"]:
        done = len({(r["variant"], *r["size_hw"], r["protocol"], r["batch"]) for r in result["rows"]})
        lines[1:1] = [f"NOT FINISHED: {done} of {result['cases']} cases"]
    for name, meaning in result["protocols"].items():
        rows = [row for row in result["rows"] if row["protocol"] == name]
        if rows:
            lines += wrapped(f"{name}: {meaning}")
            has_paper = any(row["published"] for row in rows)
            lines += [_SPEED + (f"{'paper':>6}" if has_paper else "")]
            lines += [line for row in rows for line in _speed_lines(row, has_paper)] + [""]
    lines += _program_lines(result)
    return lines + [line for note in _notes(result) for line in wrapped(note)]


def _speed_lines(row: dict, has_paper: bool) -> list[str]:
    place = f"{size(row['size_hw']):<9} {row['variant']:<8}{row['engine']:<14}"
    if row["error"]:
        return wrapped(f"{row['batch']:>5}  {row['error']}", place, hanging=7)
    p95_ms = row["p95_ms"] if row["calls"] >= _CALLS_OF_P95 else None
    figures = (
        f"{row['batch']:>5}{_ms(row['latency_ms']):>9}{_ms(p95_ms):>9}{three_digits(row['fps']):>8}"
        f"{percent(row['fraction_of_matmul']):>5}{'-' if row['ratio'] is None else format(row['ratio'], '.2f'):>6}"
    )
    return [(place + figures + (_paper(row["published"]) if has_paper else "")).rstrip()]


def _paper(published: dict | None) -> str:
    """Frames a second with a star where they are recalled; a dash where none were published."""
    return f"{published['fps']:>5.0f}{' ' if published['is_checked'] else '*'}" if published else f"{'-':>5}"


def _program_lines(result: dict) -> list[str]:
    """Lines about our programs: `file` runs the one of `mask`."""
    rows = [r for r in result["rows"] if not r["error"] and r["memory"] and r["protocol"] != "file"]
    if not rows:
        return []
    has_clocks = any(row["clocks"] for row in rows)
    lines = ["our programs", _PROGRAM + (f"{'MHz':>5}" if has_clocks else "")]
    for row in rows:
        batch = f" x{row['batch']}" if row["batch"] > 1 else ""
        name = f"{row['protocol']} {row['engine'].removeprefix('jax ')}{batch}"
        compile_s = "cached" if row["is_from_cache"] else f"{row['compile_s']:.1f} s"
        accessed = "-" if row["bytes_accessed"] is None else f"{row['bytes_accessed'] / 2**20:.0f} MiB"
        memory = sum(row["memory"].values()) / 2**20
        lines.append(
            f"{size(row['size_hw']):<9} {row['variant']:<8}{name:<20}{compile_s:>9}{memory:>6.0f} MiB"
            f"{accessed:>10}{percent(row['fraction_of_copy']):>8}{_mhz(row['clocks']) if has_clocks else ''}"
        )
    return [*lines, ""]


def _mhz(of_row: dict | None) -> str:
    return f"{of_row['sm_mhz'][0] if of_row else '-':>5}"


def _notes(result: dict) -> list[str]:
    peaks, rows = result["peaks"], result["rows"]
    n = peaks["matmul_size"]
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in peaks["matmul_flops_per_s"].items())
    first = result["engines"][0]["label"]
    least_s = least_warm_up_s(result["device"]["platform"])
    warm_ups = f"{WARM_UPS} warm-ups" + (f" and {least_s:g} s of them at least" if least_s else "")
    notes = [
        f"ms: paper: the mean of {result['seconds_a_row']:g} s of forwards (at least {MIN_CALLS}) after "
        f"{warm_ups}, waited for once, or with several engines once a turn (up to {ROUNDS}); elsewhere the median of "
        f"forwards that are each waited for. FPS: images a second at that. p95: from {_CALLS_OF_P95} of these on.",
        f"x: time against {first}: the median over rounds in which the engines take turns.",
        f"peak: operations of the network alone over those of a {n} x {n} matrix multiplication in this run: {rates}. "
        f"of copy: bytes that XLA counts over those of a large copy: {peaks['copy_bytes_per_s'] / 1e9:,.1f} GB/s.",
    ]
    if any(row["published"] for row in rows):
        notes.append(
            f"paper: published frames a second on {HARDWARE}: another machine than this one. "
            "* recalled, not checked against the text. Sources are in benchmark.json."
        )
    png_bytes = {size(row["size_hw"]): row["png_bytes"] for row in rows if row["protocol"] == "file"}
    if png_bytes:
        sizes = ", ".join(f"{name} of {count / 1e6:.1f} MB" for name, count in png_bytes.items())
        notes.append(f"file: a drawn street scene as PNG: {sizes}.")
    notes.append(_weights_note(result))
    if result["load_before"] and result["load_before"] > 0.5:
        notes.append(
            f"The machine was busy when this began (load {result['load_before']:.1f} a core): read ratios, not times."
        )
    if result["clocks"]:
        notes.append(clocks.note(result["clocks"], [row for row in rows if not row["error"]]))
    if result["xla_flags"]:
        notes.append(f"XLA_FLAGS: {result['xla_flags']}")
    notes += [engine["note"] for engine in result["engines"] if engine["note"]]
    return [*notes, versions(result["versions"])]


def _weights_note(result: dict) -> str:
    if result["weights"] != "random":
        return (
            f"Weights: {result['weights']}, trained on {result['data_set']}: beside them stand no figures that were "
            "published of another data set, nor a chart."
        )
    classes = {size(row["size_hw"]): row["num_classes"] for row in result["rows"]}
    return (
        f"Random weights, classes: {', '.join(f'{count} at {name}' for name, count in classes.items())}. For speed "
        "they are as good as any, except in file: PNGs of masks that make no sense take longer or shorter to write."
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else three_digits(value) if value < 100 else f"{value:.1f}"
