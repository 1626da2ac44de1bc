"""Time and memory side by side with the official package, on the same input and references.

    python benchmarks/compare_peer.py FOLDER [FOLDER ...] [--runs 3] [--json FILE]

Each FOLDER holds an association ``*_asn.json`` with its exposures, an offline CRDS cache
``crds_cache`` and, optionally, ``scenario.json`` (``{"context": ..., "steps": {step: {parameter:
value}}}``); ``spec2fn demo`` writes such folders. Per folder it measures, alternating between the
two packages:

* cold: the whole process, imports included (wall seconds, peak memory);
* warm: the second exposure in one process, and each step in it.

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

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

WORKER = """
import json, resource, sys, time
start = time.perf_counter()
package, asn, out = sys.argv[1:4]
steps, repeat = json.loads(sys.argv[4]), int(sys.argv[5])
walls, per_step = [], {}
for i in range(repeat):
    t = time.perf_counter()
    if package == "spec2fn":
        from spec2fn.calibration import calibrate
        report = calibrate(asn, f"{out}/{i}", params=steps).report
        per_step = {s["step"]: s["seconds"] for s in report["steps"]}
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
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("RESULT " + json.dumps({"walls": walls, "per_step": per_step, "peak_mb": peak}))
"""


def measure(package: str, folder: Path, steps: dict, repeat: int, context: str) -> dict:
    env = {
        **os.environ,
        **THREADS,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--package", choices=("both", "spec2fn", "jwst"), default="both")
    args = parser.parse_args()
    packages = ("spec2fn", "jwst") if args.package == "both" else (args.package,)
    report = {}
    for given in args.folders:
        folder = given.resolve()
        scenario = folder / "scenario.json"
        described = json.loads(scenario.read_text()) if scenario.exists() else {}
        steps, context = described.get("steps", {}), described.get("context", "jwst_0001.pmap")
        cold = {p: [] for p in packages}
        warm = {}
        for _ in range(args.runs):
            for package in packages:
                cold[package].append(measure(package, folder, steps, 1, context))
        for package in packages:
            warm[package] = measure(package, folder, steps, 3, context)
        row = {
            p: {
                "cold_s": statistics.median(r["process"] for r in cold[p]),
                "peak_mb": statistics.median(r["peak_mb"] for r in cold[p]),
                "warm_s": min(warm[p]["walls"][1:]),
                "per_step_s": warm[p]["per_step"],
            }
            for p in packages
        }
        report[folder.name] = row
        for p in packages:
            r = row[p]
            times = f"cold {r['cold_s']:6.2f} s  warm {r['warm_s']:6.2f} s"
            print(f"{folder.name:28s} {p:8s} {times}  peak {r['peak_mb']:5.0f} MB")
            slow = sorted(r["per_step_s"].items(), key=lambda kv: -kv[1])[:6]
            print("    " + "  ".join(f"{k} {v:.3f}" for k, v in slow))
        if len(packages) == 2:
            a, b = row["spec2fn"], row["jwst"]
            ratios = b["cold_s"] / a["cold_s"], b["warm_s"] / a["warm_s"]
            print("    cold {:.1f}x, warm {:.1f}x faster".format(*ratios))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
