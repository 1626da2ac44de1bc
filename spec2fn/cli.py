"""The command line: ``spec2fn run``, ``plan``, ``modes``, ``demo``, ``diff``, ``pixel-table``, ….

Nothing heavy is imported before a command needs it, so that ``spec2fn --help`` answers at once.
Exit status: 0 done, 1 failure, 2 usage or input error, 64 no spectrum falls on the detector.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from spec2fn import __version__
from spec2fn.demo.modes import DEMOS
from spec2fn.errors import InputError, NoDataOnDetectorError, ParameterError, Spec2fnError

if TYPE_CHECKING:
    from spec2fn.calibration import Calibration
    from spec2fn.calibration.batch import Outcome

__all__ = ["main"]


def _spelled(error: UnicodeError) -> tuple[str | bytes, int]:
    """Print the bytes of a name that is no text as they are, letters the locale lacks as codes."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error("spec2fn", _spelled)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    # a path may hold letters that the terminal's locale lacks
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spec2fn")
    args = _parser().parse_args(_translated(sys.argv[1:] if argv is None else argv))
    try:
        status: int = args.command(args)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("spec2fn: interrupted; nothing half-written was left behind\n")
        return 1
    except Exception as error:
        if args.debug:
            raise
        return _failed(error)
    return status


def _translated(argv: Sequence[str]) -> list[str]:
    """Return arguments in which those of the official command line are ours.

    ``--steps.STEP.PARAM=VALUE`` and the options of the pipeline, as ``--save_bsub=true``.
    """
    out: list[str] = []
    for item in argv:
        name, equals, value = item.partition("=")
        if equals and name.startswith("--steps."):
            out += ["--set", item.removeprefix("--steps.")]
        elif equals and name in ("--save_bsub", "--save_wfss_esec"):
            out += [name.replace("_", "-")] if value.lower() == "true" else []
        elif name in ("--output_dir", "--fail_on_exception"):
            out.append(f"{name.replace('_', '-')}{equals}{value}")
        elif name != "--save_results":  # products are saved
            out.append(item)
    return out


def _failed(error: Exception, what: str = "") -> int:
    """Say why something failed, in one line, and return the exit status."""
    line, status = _one_line(error), 1
    if isinstance(error, Spec2fnError):
        status = error.exit_code
    elif isinstance(error, OSError):
        status = 1 if error.filename is None else 2  # a path that cannot be used
    else:
        line = f"{type(error).__name__}: {line} (--debug shows where)"
    sys.stderr.write(f"spec2fn: {what}{line}\n")
    return status


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) if "\n" not in str(error) else str(error)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="spec2fn",
        description="JWST stage-2 spectroscopic calibration: _rate to _cal, _s2d, _s3d, _x1d.",
    )
    parser.add_argument("--version", action="version", version=f"spec2fn {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    run = commands.add_parser(
        "run",
        help="calibrate exposures and associations",
        epilog="Exit status: 0 done, 1 failure, 2 usage or input error, 64 no spectrum falls on the"
        " detector; of several exposures that of those that failed, 1 if they differ.",
    )
    _job_options(run, several=True)
    run.add_argument("--output-dir", default=".", metavar="DIR", help="default: this folder")
    run.add_argument("--save-bsub", action="store_true", help="save the _bsub product")
    run.add_argument(
        "--save-wfss-esec",
        action="store_true",
        help="save a slitless exposure in electrons per second, _esec",
    )
    run.add_argument(
        "--save-step",
        action="append",
        default=[],
        metavar="STEP",
        help="save the output of a step (repeatable)",
    )
    run.add_argument(
        "--format",
        choices=("fits", "netcdf"),
        default="fits",
        help="of the products (default fits)",
    )
    run.add_argument(
        "--chunk-integrations",
        type=int,
        metavar="N",
        help="integrations in work at once (default: as memory allows)",
    )
    run.add_argument(
        "--fail-on-exception",
        type=str.lower,
        choices=("true", "false"),
        metavar="true|false",
        help="whether exposures that fail count for the exit status (default true); the others are"
        " calibrated in any case",
    )
    run.add_argument(
        "--strict", action="store_true", help="fail if a step fails on a slit (default: go on)"
    )
    run.add_argument(
        "--backend",
        choices=("numpy", "jax", "auto"),
        default="numpy",
        help="what computes the pixels (default numpy); auto: JAX where it is faster",
    )
    run.add_argument("--json", action="store_true", help="print the report as JSON")
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")
    run.set_defaults(command=_run)

    sweep = commands.add_parser(
        "sweep", help="calibrate with every combination of some parameters, into one file"
    )
    _job_options(sweep)
    sweep.add_argument(
        "--grid",
        action="append",
        default=[],
        required=True,
        metavar="STEP.PARAM=A,B,...",
        help="values of a parameter (repeatable)",
    )
    sweep.add_argument("--kind", default="x1d", help="product that is wanted (default x1d)")
    sweep.add_argument("-o", "--output", required=True, metavar="FILE", help="ends in .nc")
    sweep.set_defaults(command=_sweep)

    plan = commands.add_parser("plan", help="say what a run would do, without doing it")
    _job_options(plan, several=True)
    plan.add_argument("--save-bsub", action="store_true", help=argparse.SUPPRESS)
    plan.add_argument("--json", action="store_true", help="print the plan as JSON")
    plan.set_defaults(command=_plan)

    modes = commands.add_parser("modes", help="list observing modes and their pipelines")
    modes.add_argument("--json", action="store_true", help="print the list as JSON")
    modes.set_defaults(command=_modes)

    demo = commands.add_parser(
        "demo", help="render an exposure with known truth, calibrate it, plot the result"
    )
    demo.add_argument("mode", choices=DEMOS, metavar="MODE", help="one of " + ", ".join(DEMOS))
    demo.add_argument("--output-dir", metavar="DIR", help="default: spec2fn-demo-MODE")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (default 0)")
    demo.add_argument("--json", action="store_true", help="print the summary as JSON")
    demo.set_defaults(command=_demo)

    diff = commands.add_parser(
        "diff",
        help="compare two products, or two folders of products",
        description="Exit status 0 if all planes agree, 1 if not; values of keywords do not count.",
        epilog="Columns: ok, the fraction that agrees of the elements that are finite in A or B; "
        "max rel and p99 rel, the largest relative difference and its 99th percentile; nan, the "
        "fraction that is finite in only one of them.",
    )
    diff.add_argument("a", metavar="A", help="file or folder; differences are relative to it")
    diff.add_argument("b", metavar="B", help="file or folder")
    diff.add_argument(
        "--rtol", type=float, default=1e-5, help="tolerated relative difference (default 1e-5)"
    )
    diff.add_argument(
        "--atol", type=float, default=0.0, help="tolerated absolute difference (default 0)"
    )
    diff.add_argument("--json", action="store_true", help="print the report as JSON")
    diff.set_defaults(command=_diff)

    table = commands.add_parser(
        "pixel-table", help="write the pixels of an integral-field product as a table"
    )
    table.add_argument("product", help="such as a _cal file")
    table.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="ends in .fits, .nc or .parquet"
    )
    table.set_defaults(command=_pixel_table)

    refs = commands.add_parser("refs", help="list, check and lock the references of an exposure")
    _job_options(refs)
    refs.add_argument("--write-lock", metavar="FILE", help="write a lock file")
    refs.add_argument("--json", action="store_true", help="print the list as JSON")
    refs.set_defaults(command=_refs)
    return parser


def _job_options(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    what = "_rate or _rateints FITS file, or level-2 association JSON"
    if several:
        parser.add_argument(
            "input", nargs="+", metavar="INPUT", help=f"{what}, or a folder of them (repeatable)"
        )
        parser.add_argument(
            "--all-products",
            action="store_true",
            help="calibrate every product of an association that has several",
        )
    else:
        parser.add_argument("input", metavar="INPUT", help=what)
    parser.add_argument(
        "--from",
        dest="start",
        metavar="STEP",
        help="INPUT is a product (_cal, _s2d, ...) that has been through the steps before STEP:"
        " go on with it",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.PARAM=VALUE",
        help="set a parameter (repeatable); STEP.skip=true|false switches a step",
    )
    parser.add_argument(
        "--skip", action="append", default=[], metavar="STEP", help="switch a step off (repeatable)"
    )
    parser.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="REFTYPE=FILE",
        help="use this reference file; REFTYPE=N/A for none (repeatable)",
    )
    parser.add_argument("--context", metavar="PMAP", help="CRDS context, default $CRDS_CONTEXT")
    parser.add_argument("--lock", metavar="FILE", help="use the references of a lock file")
    parser.add_argument(
        "--compatibility",
        metavar="PRESET",
        help="jwst-3.0: parameters that give the official numbers where ours differ by choice",
    )
    parser.add_argument(
        "--parameters",
        action="append",
        default=[],
        metavar="FILE",
        help="apply a parameter file of calwebb_spec2 or of one of its steps (.asdf; repeatable)",
    )
    parser.add_argument(
        "--no-crds-parameters", action="store_true", help="do not apply CRDS parameter references"
    )


def _settings(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    params: dict[str, dict[str, Any]] = {}
    for item in args.set:
        name, equals, value = item.partition("=")
        step, dot, parameter = name.partition(".")
        if not equals or not dot or not step or not parameter:
            msg = f"--set needs STEP.PARAM=VALUE, got {item!r}"
            raise ParameterError(msg)
        params.setdefault(step, {})[parameter] = value
    for step in args.skip:
        params.setdefault(step, {})["skip"] = "true"
    return params


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for item in args.override:
        reftype, equals, path = item.partition("=")
        if not equals or not reftype or not path:
            msg = f"--override needs REFTYPE=FILE, got {item!r}"
            raise ParameterError(msg)
        out[reftype] = None if path.upper() == "N/A" else path
    return out


def _job_arguments(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "start": args.start,
        "params": _settings(args),
        "overrides": _overrides(args),
        "context": args.context,
        "lock": args.lock,
        "parameter_references": not args.no_crds_parameters,
        "parameter_files": args.parameters,
        "compatibility": args.compatibility,
    }


def _run(args: argparse.Namespace) -> int:
    from spec2fn.calibration.batch import outcomes, tasks
    from spec2fn.refs import parameter_files

    if args.chunk_integrations is not None and args.chunk_integrations < 1:
        msg = f"--chunk-integrations needs at least 1, got {args.chunk_integrations}"
        raise InputError(msg)
    found, left_out = tasks(args.input, all_products=args.all_products)
    _note(f"{name} is left out" for name in left_out)
    asked = args.fail_on_exception or str(
        parameter_files(args.parameters).options.get("fail_on_exception", True)
    )
    demanding = asked.lower() != "false"
    reports: list[Any] = []
    failures: list[int] = []
    with _progress_bar(quiet=args.quiet or args.json) as progress:
        options = {
            "save_steps": args.save_step,
            "save_bsub": args.save_bsub,
            "save_wfss_esec": args.save_wfss_esec,
            "file_format": args.format,
            "chunk_integrations": args.chunk_integrations,
            "progress": progress,
            "strict": args.strict,
            "backend": args.backend,
            **_job_arguments(args),
        }
        for outcome in outcomes(found, args.output_dir, options):
            report, status = _shown(args, outcome, several=len(found) > 1)
            reports.append(report)
            failures += [status] if status else []
            del outcome  # its products must not be in memory while the next is calibrated
    if args.json and (len(found) > 1 or not failures):
        _print_json(reports if len(found) > 1 else reports[0])
    if not demanding:
        # that there are no data is said in any case, as nothing has failed
        failures = [status for status in failures if status == NoDataOnDetectorError.exit_code]
    if not failures:
        return 0
    return failures[0] if len(set(failures)) == 1 else 1


def _shown(
    args: argparse.Namespace, outcome: Outcome, *, several: bool
) -> tuple[Mapping[str, Any], int]:
    """Print what became of an exposure; return its report, and the exit status on its account."""
    label = outcome.task.label
    if outcome.calibration is not None:
        _show(args, outcome.calibration, label if several else "")
        return outcome.calibration.report, 0
    assert outcome.error is not None
    if args.debug:
        raise outcome.error
    status = _failed(outcome.error, f"{label}: " if several else "")
    return {"input": label, "error": _one_line(outcome.error)}, status


def _show(args: argparse.Namespace, result: Calibration, label: str) -> None:
    """Print what a calibration has done."""
    steps = result.report["steps"]
    for step in steps:
        for slit, problem in step.get("problems", {}).items():
            sys.stderr.write(f"spec2fn: {step['step']}: slit {slit} is lost: {problem}\n")
    if args.quiet:
        return
    _warn(result.warnings)
    if args.json:
        return
    if label:
        print(f"{label}:")
    width = max((len(s["step"]) for s in steps), default=0)
    for step in steps:
        print(f"{step['step']:{width}} {step['status']:40s} {step['seconds']:8.3f} s")
    for path in result.files.values():
        print(path)
    ignored = len(result.report["ignored_parameters"])
    if ignored:
        print(f"{ignored} parameters mean nothing here and are ignored (--json lists them)")
    seconds, memory = result.report["seconds"], result.report["peak_memory_mb"]
    print(f"done in {seconds:.1f} s, peak memory {memory:.0f} MB")


def _sweep(args: argparse.Namespace) -> int:
    from spec2fn.calibration import spare_inputs
    from spec2fn.calibration.sweep import sweep
    from spec2fn.io import save

    grid = {}
    for item in args.grid:
        name, equals, values = item.partition("=")
        if not equals or not values:
            msg = f"--grid needs STEP.PARAM=A,B,..., got {item!r}"
            raise ParameterError(msg)
        grid[name] = values.split(",")
    output = Path(args.output)
    if output.suffix != ".nc":
        msg = f"--output needs a name that ends in .nc, got {args.output!r}"
        raise ParameterError(msg)
    spare_inputs([output], [Path(args.input)])
    with _progress_bar(quiet=False) as progress:
        made = sweep(args.input, grid, kind=args.kind, progress=progress, **_job_arguments(args))
    path = save(made, output)
    print(f"{path}: {args.kind} for " + ", ".join(f"{k} = {', '.join(v)}" for k, v in grid.items()))
    return 0


def _plan(args: argparse.Namespace) -> int:
    from spec2fn.calibration import prepare
    from spec2fn.calibration.batch import tasks

    found, left_out = tasks(args.input, all_products=args.all_products)
    _note(f"{name} is left out" for name in left_out)
    plans: list[Any] = []
    missing = False
    for task in found:
        job = prepare(task.open(), allow_missing=True, **_job_arguments(args))
        planned = job.plan(("bsub",) if args.save_bsub else ())
        _warn(planned.warnings)
        missing |= bool(planned.missing)
        plans.append({"mode": job.mode, "name": job.name, **planned.as_dict()})
        if not args.json:
            print(f"{job.name}: {job.mode}")
            print(planned)
    if args.json:
        _print_json(plans if len(found) > 1 else plans[0])
    return 2 if missing else 0


def _modes(args: argparse.Namespace) -> int:
    from spec2fn.engine.pipeline import Element, Product, steps_of
    from spec2fn.pipelines import MODES

    def names(element: Element) -> list[str]:
        if isinstance(element, Product):
            return [f"product({element.kind})"]
        return [s.key for s in steps_of((element,))]

    table = {
        exp_type: {"pipeline": name, "elements": [n for e in pipeline for n in names(e)]}
        for exp_type, (name, pipeline) in MODES.items()
    }
    if args.json:
        _print_json(table)
    else:
        for exp_type, entry in table.items():
            print(f"{exp_type}  {entry['pipeline']}")
            print("    " + ", ".join(entry["elements"]))
    return 0


def _pixel_table(args: argparse.Namespace) -> int:
    from spec2fn.calibration import spare_inputs
    from spec2fn.io import open_product, save_pixel_table
    from spec2fn.plans.cubes.pixel_table import pixel_table

    spare_inputs([Path(args.output)], [Path(args.product)])
    product: Any = open_product(args.product)
    table = pixel_table(product)
    path = save_pixel_table(table, args.output)
    print(f"{path}: {table.sizes['pixel']} pixels")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from spec2fn.demo.run import run_demo

    folder = Path(args.output_dir or f"spec2fn-demo-{args.mode}")
    with _progress_bar(quiet=args.json) as progress:
        summary = run_demo(args.mode, folder, seed=args.seed, progress=progress)
    if args.json:
        _print_json(summary.as_dict())
    else:
        print(summary)
    return 0


def _diff(args: argparse.Namespace) -> int:
    from spec2fn.io import diff

    report = diff(args.a, args.b, rtol=args.rtol, atol=args.atol)
    if args.json:
        _print_json(report.as_dict())
    else:
        print(report)
    return 0 if report.same else 1


def _refs(args: argparse.Namespace) -> int:
    from spec2fn.calibration import prepare, spare_inputs
    from spec2fn.refs import write_lock

    job = prepare(args.input, **_job_arguments(args))
    names = job.references.names
    _warn(job.warnings)
    if args.write_lock:
        spare_inputs([Path(args.write_lock)], job.inputs)
        write_lock(args.write_lock, job.references)
    if args.json:
        _print_json({"context": job.references.context, "references": dict(names)})
    else:
        for reftype, name in names.items():
            print(f"{reftype:16s} {name}")
    return 0


def _warn(warnings: Sequence[str]) -> None:
    _note(f"warning: {' '.join(warning.split())}" for warning in warnings)


def _note(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"spec2fn: {line}\n")


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, sort_keys=True, default=str))


@contextlib.contextmanager
def _progress_bar(*, quiet: bool) -> Iterator[Callable[[str], Any] | None]:
    """A bar on a terminal for work that lasts longer than two seconds."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="step", delay=2.0, leave=False, bar_format="{desc} [{elapsed}]") as bar:

        def show(name: str) -> None:
            bar.set_description_str(name)
            bar.update()

        yield show


if __name__ == "__main__":
    sys.exit(main())
