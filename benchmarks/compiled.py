"""Times of compiled pipelines, by mode: ``python benchmarks/compiled.py [MODE ...]``.

Exposures are those of the demos. Both the pipeline in NumPy and the compiled one get the plans, so
that they do the same work. Times are processor seconds and wall seconds: on a machine with other
work to do the former tell more.
"""

import argparse
import json
import os
import resource
import time

import jax.numpy as jnp
import numpy as np

import spec2fn
from spec2fn.demo.modes import DEMOS
from spec2fn.engine.run import run
from spec2fn.forward import render
from spec2fn.pipelines import MODES
from spec2fn.testing.exposures import MRS, pipeline

INTEGRATIONS = 40
REALISATIONS = 100
LOOP = 5  # of these are run one by one in NumPy


def seconds(function, repeat=1):
    """Processor and wall seconds of a call, the least of several, and what it returns."""
    best, out = None, None
    for _ in range(repeat):
        begun, wall = time.process_time(), time.perf_counter()
        out = function()
        for leaf in (v.data for p in out.values() for v in getattr(p, "variables", {}).values()):
            getattr(leaf, "block_until_ready", int)()
        took = time.process_time() - begun, time.perf_counter() - wall
        best = took if best is None else min(best, took)
    return best, out


def spectrum(products):
    return jnp.nansum(products["x1d"]["flux"].data) * 1e3


def measured(mode, realisations):
    exp_type = DEMOS[mode]
    series = mode in ("miri-lrs-slitless", "nirspec-bots", "nircam-tsgrism")
    rendered = render(exp_type, 0, **({"integrations": INTEGRATIONS} if series else {}))
    steps = pipeline(exp_type) if exp_type == MRS else MODES[exp_type][1]
    science, members, refs = rendered.science, rendered.members, dict(rendered.references)
    (planning, compiled) = seconds_of_planning(science, steps, refs, members)
    obs, refs, plans = compiled.observation, compiled.references, compiled.first.plans

    def eager(sci=None):
        ds = obs.science if sci is None else obs.science.assign(sci=(obs.science["sci"].dims, sci))
        return run(steps, ds, refs, members=obs.members, plans=plans).products

    row = {"mode": mode, "planning": planning, "equations": compiled.equations}
    row["numpy"], _ = seconds(eager, 3)
    row["first"], _ = seconds(compiled.products)
    row["compiled"], _ = seconds(compiled.products, 3)
    spectra = compiled.only("x1d")
    row["first_x1d"], _ = seconds(spectra.products)
    row["compiled_x1d"], _ = seconds(spectra.products, 3)
    gradient = spectra.value_and_grad(spectrum)

    def slopes():
        _, found = gradient()
        found["science/sci"].block_until_ready()
        return {}

    row["first_gradient"], _ = seconds(slopes)
    row["gradient"], _ = seconds(slopes, 3)
    if realisations:
        row["first_realisations"], _ = seconds(
            lambda: spec2fn.realisations(spectra, realisations).products
        )
        (row["realisations"], _) = seconds(
            lambda: spec2fn.realisations(spectra, realisations, key=1).products
        )
        row["coverage"] = spec2fn.realisations(spectra, realisations, key=2).coverage()
        sci = obs.science["sci"].values
        one, _ = seconds(lambda: eager(sci * np.float32(1.01)), LOOP)
        row["loop"] = [t * realisations for t in one]
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def seconds_of_planning(science, steps, refs, members):
    begun, wall = time.process_time(), time.perf_counter()
    compiled = spec2fn.compile(science, steps, refs, members=members)
    return (time.process_time() - begun, time.perf_counter() - wall), compiled


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modes", nargs="*", default=list(DEMOS), choices=list(DEMOS))
    parser.add_argument("--realisations", type=int, default=REALISATIONS)
    args = parser.parse_args()
    print(f"# {os.cpu_count()} processors, cache {os.environ.get('SPEC2FN_CACHE', 'default')}")
    for mode in args.modes:
        row = measured(mode, args.realisations)
        rounded = {
            k: [round(t, 4) for t in v] if isinstance(v, (list, tuple)) else v
            for k, v in row.items()
        }
        print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
