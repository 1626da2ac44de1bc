"""Time and memory side by side with the official package, on the same input and references.

    python benchmarks/compare_peer.py FOLDER [FOLDER ...] [--runs 3] [--pinned] [--alone FOLDER]
        [--json FILE]

Each FOLDER holds an association ``*_asn.json`` with its exposures, an offline CRDS cache
``crds_cache`` and, optionally, ``scenario.json`` (``{"context": ..., "steps": {step: {parameter:
value}}}``); ``spec2fn demo`` writes such folders. Per folder it measures, alternating between the
two packages:

* cold: the whole process, imports included (wall and processor seconds, peak memory);
* warm: the second exposure in one process, and each step in it;
* of spec2fn also: how long all products together take to be written, and to be opened.

Both packages run as users have them: nothing tells BLAS how many threads to use. With ``--pinned``
it has one in both, which shows what the threads of BLAS cost or gain.

Folders given with ``--alone`` are calibrated by spec2fn only: exposures of hundreds of slits take
the official package many minutes. For steps that the official package has on other defaults than
this one, both get the official ones (``clean_flicker_noise``). On a machine with other work to do,
compare processor seconds.

Needs the ``parity`` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# What the official package does where a scenario says nothing; by its names.
OFFICIAL = {
    "clean_flicker_noise": {
        "fit_method": "median",
        "background_method": "median",
        "single_mask": True,
        "n_sigma": 2.0,
        "mask_science_regions": False,
    }
}

WORKER = """
import json, resource, sys, time
package, asn, out = sys.argv[1:4]
steps, repeat = json.loads(sys.argv[4]), int(sys.argv[5])
walls, cpu, per_step, saving, opening = [], [], {}, [], []
for i in range(repeat):
    t, c = time.perf_counter(), time.process_time()
    if package == "spec2fn":
        from pathlib import Path
        from spec2fn.calibration import calibrate
        from spec2fn.io import open_product, save
        done = calibrate(asn, f"{out}/{i}", params=steps)
        per_step = {s["step"]: s["seconds"] for s in done.report["steps"]}
    else:
        import logging, os, warnings
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        import stpipe.step
        from jwst.pipeline import Spec2Pipeline
        if i == 0:
            original = stpipe.step.Step.run
            def timed(self, *a, **k):
                s = time.perf_counter()
                try:
                    return original(self, *a, **k)
                finally:
                    per_step[self.name] = time.perf_counter() - s
            stpipe.step.Step.run = timed
        os.makedirs(f"{out}/{i}", exist_ok=True)
        Spec2Pipeline.call(asn, steps=steps, output_dir=f"{out}/{i}", save_results=True)
    walls.append(time.perf_counter() - t)
    cpu.append(time.process_time() - c)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    done = None
usage = resource.getrusage(resource.RUSAGE_SELF)
if package == "spec2fn" and repeat > 1:
    # products that have not been written before: nothing of them is at hand
    done = calibrate(asn, params=steps)
    t, c = time.perf_counter(), time.process_time()
    files = [save(ds, Path(out) / f"{kind}.fits") for kind, ds in done.products.items()]
    saving += [time.perf_counter() - t, time.process_time() - c]
    t, c = time.perf_counter(), time.process_time()
    opened = [open_product(f) for f in files]
    opening += [time.perf_counter() - t, time.process_time() - c]
print("RESULT " + json.dumps({
    "walls": walls, "cpu": cpu, "process_cpu": usage.ru_utime + usage.ru_stime, "peak_mb": peak,
    "per_step": per_step, "saving": saving, "opening": opening,
}))
"""


def measure(
    package: str, folder: Path, steps: dict, repeat: int, context: str, *, pinned: bool
) -> dict:
    env = {
        **{k: v for k, v in os.environ.items() if k not in THREADS},
        **(dict.fromkeys(THREADS, "1") if pinned else {}),
        "CRDS_PATH": str(folder / "crds_cache"),
        "CRDS_SERVER_URL": "https://crds-serverless-mode.stsci.edu",
        "CRDS_CONTEXT": context,
        "CRDS_READONLY_CACHE": "1",
    }
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", WORKER, package, str(next(folder.glob("*_asn.json"))), out]
        start = time.perf_counter()
        done = subprocess.run(
            [*command, json.dumps(steps), str(repeat)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
        wall = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{package} failed on {folder}:\n{done.stderr[-3000:]}")
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
    return {"process": wall, **json.loads(line.removeprefix("RESULT "))}


def scenario(folder: Path) -> tuple[dict, str]:
    """Parameters of the steps, and the CRDS context."""
    file = folder / "scenario.json"
    described = json.loads(file.read_text()) if file.exists() else {}
    steps = {name: dict(values) for name, values in described.get("steps", {}).items()}
    for name, values in OFFICIAL.items():
        if not steps.get(name, {}).get("skip", True):
            steps[name] = {**values, **steps[name]}
    return steps, described.get("context", "jwst_0001.pmap")


def compare(folder: Path, packages: tuple[str, ...], runs: int, *, pinned: bool) -> dict:
    """Measure the packages in turn, and print what came out."""
    steps, context = scenario(folder)
    cold = {p: [] for p in packages}
    for _ in range(runs):
        for package in packages:
            cold[package].append(measure(package, folder, steps, 1, context, pinned=pinned))
    row = {}
    for p in packages:
        warm = measure(p, folder, steps, 3, context, pinned=pinned)
        middle = {
            k: statistics.median(r[k] for r in cold[p])
            for k in ("process", "process_cpu", "peak_mb")
        }
        r = row[p] = {
            "cold_s": middle["process"],
            "cold_cpu_s": middle["process_cpu"],
            "peak_mb": middle["peak_mb"],
            "warm_s": min(warm["walls"][1:]),
            "warm_cpu_s": min(warm["cpu"][1:]),
            "per_step_s": warm["per_step"],
        }
        print(
            f"{folder.name:28s} {p:8s} cold {r['cold_s']:6.2f} s (cpu {r['cold_cpu_s']:6.2f})"
            f"  warm {r['warm_s']:6.2f} s (cpu {r['warm_cpu_s']:6.2f})"
            f"  peak {r['peak_mb']:5.0f} MB"
        )
        if warm["saving"]:
            r["saving_s"], r["saving_cpu_s"] = warm["saving"]
            r["opening_s"], r["opening_cpu_s"] = warm["opening"]
            print(
                f"    products: saved in {r['saving_s']:.2f} s (cpu {r['saving_cpu_s']:.2f}),"
                f" opened in {r['opening_s']:.3f} s (cpu {r['opening_cpu_s']:.3f})"
            )
        slow = sorted(r["per_step_s"].items(), key=lambda kv: -kv[1])[:6]
        print("    " + "  ".join(f"{k} {v:.3f}" for k, v in slow), flush=True)
    if len(packages) == 2:
        ours, theirs = row["spec2fn"], row["jwst"]
        for kind in ("s", "cpu_s"):
            c, w = (theirs[f"{n}_{kind}"] / ours[f"{n}_{kind}"] for n in ("cold", "warm"))
            what = "wall" if kind == "s" else "processor"
            print(f"    {what}: cold {c:.1f}x, warm {w:.1f}x faster", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pinned", action="store_true", help="one thread of BLAS")
    parser.add_argument("--package", choices=("both", "spec2fn", "jwst"), default="both")
    parser.add_argument("--alone", nargs="+", type=Path, default=[], metavar="FOLDER")
    args = parser.parse_args()
    packages = ("spec2fn", "jwst") if args.package == "both" else (args.package,)
    jobs = [(f, packages) for f in args.folders] + [(f, ("spec2fn",)) for f in args.alone]
    if not jobs:
        parser.error("give at least one folder")
    report = {"pinned": args.pinned}
    print("BLAS:", "one thread" if args.pinned else "as many threads as it takes by itself")
    for given, which in jobs:
        folder = given.resolve()
        report[folder.name] = compare(folder, which, args.runs, pinned=args.pinned)
        if args.json:
            args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
