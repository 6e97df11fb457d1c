"""One function a mode: what its flags ask for, done by the package, and said in a few lines.

Each imports what it needs when it runs, so that --help and a wrong flag cost no start of jax.
"""

from pathlib import Path

from ddrnet_jax.cli import flags, inputs
from ddrnet_jax.cli.flags import UsageError
from ddrnet_jax.outputs import Outputs
from ddrnet_jax.runtime import processes


def _train(arguments, overrides) -> None:
    from ddrnet_jax.report import make
    from ddrnet_jax.training import loop

    experiment = inputs.experiment(arguments, overrides)
    workdir = arguments.workdir or Path("runs") / inputs.run_name(arguments)
    finished = loop.train(experiment, workdir, command=arguments.command)
    if processes.is_first():
        make.after_training(workdir, experiment, **finished._asdict())
        print(finished.result.table(experiment.spec.classes))
        print(f"report.html, checkpoints, metrics.jsonl and TensorBoard files are in {workdir}")


def _evaluate(arguments, overrides) -> None:
    from ddrnet_jax.evaluation import evaluate
    from ddrnet_jax.prediction import scoring

    processes.end_at_sigterm()
    experiment, checkpoint = inputs.experiment(arguments, overrides), inputs.checkpoint(arguments)
    classes, is_file = experiment.spec.classes, Path(checkpoint).suffix in scoring.FILES
    if not (arguments.engine or arguments.compare or is_file):
        result = evaluate.evaluate_checkpoint(experiment, checkpoint)
        if processes.is_first():
            print(result.table(classes))
        return
    if processes.is_joined():
        raise UsageError("--distributed: engines and exported files are evaluated by one process")
    engine = arguments.engine or ("auto" if is_file else "jax")
    if arguments.compare:
        compared = scoring.compare(experiment, (checkpoint, engine), _other(arguments.compare, checkpoint))
        print("\n".join([compared.scores.table(classes), *compared.lines(classes)]))
    else:
        print(scoring.evaluate(experiment, checkpoint, engine).table(classes))


def _other(compare: str, checkpoint: str) -> tuple[str, str]:
    """(checkpoint, engine) of --compare: an engine's name for the same checkpoint, or another checkpoint or file."""
    from ddrnet_jax.prediction import scoring

    if compare in flags.ENGINES:
        return checkpoint, compare
    return compare, "auto" if Path(compare).suffix in scoring.FILES else "jax"


def _predict(arguments, overrides) -> None:
    from ddrnet_jax.prediction import predict

    wanted = inputs.optional_experiment(arguments, overrides)
    checkpoint = inputs.checkpoint_or_shipped(arguments) if arguments.input else inputs.checkpoint(arguments)
    output = arguments.output or "predictions"
    options = {"engine": arguments.engine or "auto", "side_by_side": arguments.side_by_side}
    if arguments.input:
        count = predict.predict_files(checkpoint, arguments.input, output, **options, is_live=arguments.live)
    elif arguments.live:
        raise UsageError("--live: drops frames of a camera or a stream; say which with --input")
    else:
        count = predict.predict_held_out(checkpoint, output, wanted, **options)
        print(f"image, label and prediction side by side: {Path(output) / 'samples.png'}")
    print(f"{count} masks and overlays are in {output}\nlegend.png there explains the colours")


def _serve(arguments, overrides) -> None:
    if arguments.config or overrides:
        raise UsageError("--mode serve takes no --config: a checkpoint carries its own")
    options = {"host": arguments.host, "port": arguments.port and flags.port(arguments.port)}
    given = {name: value for name, value in options.items() if value is not None}
    checkpoint = inputs.checkpoint_or_shipped(arguments)
    try:
        from ddrnet_jax.serving import serve
    except ModuleNotFoundError as e:
        raise UsageError(f"--mode serve: {e.name} is not installed: pip install 'ddrnet-jax[serve]'") from e
    serve.serve(checkpoint, engine=arguments.engine or "auto", **given)


def _pseudo_label(arguments, overrides) -> None:
    from ddrnet_jax.prediction import pseudo_labels

    confidence = flags.probability(arguments.confidence or "0.9", "confidence")
    wanted = inputs.optional_experiment(arguments, overrides)
    source, output = inputs.needed(arguments, "input"), inputs.needed(arguments, "output")
    count, _ = pseudo_labels.pseudo_label(
        inputs.checkpoint(arguments), source, output, confidence=confidence, wanted=wanted
    )
    print(f"{count} images and masks are in {output}; data.pseudo_root={output} trains on them too")


def _import_weights(arguments, overrides) -> None:
    from ddrnet_jax.weights import importing

    config = inputs.optional_config(arguments, overrides)
    source, output = inputs.needed(arguments, "input"), inputs.needed(arguments, "output")
    print("\n".join(importing.report_lines(importing.import_weights(source, output, config))))


def _export(arguments, overrides) -> None:
    from ddrnet_jax.exports import export

    if (arguments.config or overrides) and not arguments.int8:
        raise UsageError("--mode export takes no --config but with --int8: a checkpoint carries its own")
    output, file_format = inputs.needed(arguments, "output"), inputs.needed(arguments, "format")
    options = {"file_format": file_format, "naming": arguments.naming, "size_hw": flags.size_or_any(arguments.size)}
    options["int8"], options["dtype"] = _int8(arguments, overrides), arguments.dtype or "float32"
    card = export.export(inputs.checkpoint(arguments), output, **options)
    for note in card["notes"]:
        print(f"note: {note}")
    what = "weights are" if file_format in export.WEIGHTS else "the network is"
    print(f"{what} in {output}, classes, colours and more in {export.card_path(Path(output))}")


def _int8(arguments, overrides):
    """How the flags ask for int8, None where they do not."""
    from ddrnet_jax.exports import int8

    given = {name: getattr(arguments, name) for name in ("calibrate", "max_loss") if getattr(arguments, name)}
    if not arguments.int8:
        if given:
            raise UsageError(f"--{next(iter(given))}: says how to quantise; add --int8")
        return None
    options = {}
    if arguments.calibrate:
        options["images"] = flags.positive(arguments.calibrate, "calibrate", int)
    if arguments.max_loss:
        options["largest_loss"] = flags.positive(arguments.max_loss, "max_loss", float)
    return int8.Int8(inputs.optional_experiment(arguments, overrides), **options)


def _benchmark(arguments, overrides) -> None:
    from ddrnet_jax.benchmark import report, run

    if arguments.config or overrides:
        raise UsageError("--mode benchmark takes no --config: it measures --checkpoint, or random weights")
    options = _benchmark_options(arguments)
    output = Path(arguments.output or Path("runs") / "benchmark")
    result = run.benchmark(output, checkpoint=arguments.checkpoint, **options)
    print("\n".join(report.table_lines(result)))
    print(f"\nin {output}: {', '.join(result['files'])}")


def _benchmark_options(arguments) -> dict:
    """The given flags of benchmark, as its arguments."""
    from ddrnet_jax.benchmark import cases, run
    from ddrnet_jax.models.variants import VARIANTS

    if arguments.checkpoint and arguments.variants:
        raise UsageError(f"--variants {arguments.variants}: a checkpoint is of one variant; leave one of the two out")
    engines = flags.listed(arguments, "engines", ("jax", *run.OTHER_ENGINES))
    sizes = [size for text in flags.listed(arguments, "sizes") if (size := flags.size_hw(text, "sizes"))]
    if any(min(size_hw) < run.LEAST_PIXELS for size_hw in sizes):
        raise UsageError(f"--sizes {arguments.sizes}: expected {run.LEAST_PIXELS} pixels or more each way")
    options = {
        "variants": flags.listed(arguments, "variants", VARIANTS),
        "sizes_hw": sizes,
        "protocols": flags.listed(arguments, "protocols", cases.PROTOCOLS),
        "batch_sizes": [flags.positive(text, "batch_sizes", int) for text in flags.listed(arguments, "batch_sizes")],
        "other_engines": [name for name in engines if name != "jax"],  # which always runs
        "seconds": arguments.seconds and flags.positive(arguments.seconds, "seconds", float),
    }
    return {name: value for name, value in options.items() if value}


def _check_data(arguments, overrides) -> int:
    from ddrnet_jax.data.check import check
    from ddrnet_jax.data.check import report as check_report

    _say_how_unnamed_classes_lie(inputs.config(arguments, overrides))
    e = inputs.experiment(arguments, overrides)
    output = arguments.output or Path("runs") / "check_data" / inputs.run_name(arguments)
    Outputs(output).require(check_report.FILES)
    if e.pseudo_source:
        check.read_all(e.pseudo_source())
    report = check.check(
        (
            check.Split("training", e.train_split, e.train_source),
            check.Split("evaluation", e.eval_split, e.eval_source),
        ),
        e.spec,
        root=e.data_root,
        crop_hw=e.crop_hw,
        scale_range=e.scale_range,
        eval_size_hw=e.view["size_hw"],
        num_threads=e.num_threads,
    )
    print("\n".join(check_report.write(report, output)))
    return int(report.has_errors)


def _say_how_unnamed_classes_lie(config) -> None:
    """Prints how the files of a folder lie whose classes are not set yet; who needs them says that they must be."""
    from ddrnet_jax.data.check import recognise
    from ddrnet_jax.data.check import report as check_report
    from ddrnet_jax.data.sets import of_config

    d = config.data
    if d.name != "folder" or d.classes or not d.root:
        return
    unnamed = [f"class {number}" for number in range(max(2, len(d.colors or d.label_values)))]
    found = recognise.finding(d.root, of_config.own_folder(config, unnamed), d.train_split, d.eval_split)
    if found:
        print("\n".join(check_report.finding_lines(found)))


def _doctor(arguments, overrides) -> int:
    from ddrnet_jax.doctor import examine

    checkpoint = arguments.checkpoint or arguments.workdir
    examination = examine.examine(inputs.experiment(arguments, overrides), checkpoint)
    print("\n".join(examination.lines()))
    return int(examination.has_errors)


def _prepare_data(arguments, overrides) -> None:
    from ddrnet_jax import build
    from ddrnet_jax.data.records import prepare

    config = inputs.config(arguments, overrides)
    output, d = inputs.needed(arguments, "output"), config.data
    sources = build.sources_to_prepare(config)
    counts = prepare.prepare(sources, output, name=d.name, num_threads=d.num_threads, jpeg_quality=d.jpeg_quality)
    for split, count in counts.items():
        print(f"{split}: {count} samples")
    print(f"to read them: --config.data.storage=array_record --config.data.root={output}")


def _submit(arguments, overrides) -> None:
    from ddrnet_jax.evaluation import submission

    experiment = inputs.experiment(arguments, overrides)
    checkpoint, output = inputs.checkpoint(arguments), inputs.needed(arguments, "output")
    count = submission.submit(experiment, checkpoint, output)
    print(f"{count} predictions are in {output}: names, sizes and label ids were read again and are right")


def _report(arguments, overrides) -> None:
    from ddrnet_jax.report import make

    shown, experiment = inputs.checkpoint(arguments), inputs.optional_experiment(arguments, overrides)
    path = make.make(shown, arguments.output, compare=arguments.compare, experiment=experiment)
    print(f"the report is in {path}")


def _plan(arguments, overrides) -> None:
    from ddrnet_jax.plan import plan
    from ddrnet_jax.plan import report as plan_report
    from ddrnet_jax.training import program

    experiment, topology = inputs.experiment(arguments, overrides), inputs.needed(arguments, "topology")
    if arguments.output:
        Outputs(Path(arguments.output).parent).require([Path(arguments.output).name])
    planned = plan.plan(experiment, topology, program.lower_train_step)
    if arguments.output:
        plan.write(planned, arguments.output)
    print("\n".join(plan_report.report_lines(planned)))


WITHOUT_JAX = ("predict", "serve")  # whose engine loads it where it needs it
ON_THE_CPU = ("plan",)  # compiles for what is not here: JAX is not to look for it
RUN = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "serve": _serve,
    "pseudo_label": _pseudo_label,
    "import_weights": _import_weights,
    "export": _export,
    "benchmark": _benchmark,
    "submit": _submit,
    "check_data": _check_data,
    "doctor": _doctor,
    "prepare_data": _prepare_data,
    "report": _report,
    "plan": _plan,
}
