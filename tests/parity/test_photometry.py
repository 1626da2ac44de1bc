"""srctype, flat_field, pathloss and photom, each on the peer's own input to the step."""

import importlib

import numpy as np
import pytest

from spec2fn.io import open_product
from spec2fn.refs import open_reference
from spec2fn.schema import PLANES, status_of

pytestmark = pytest.mark.parity

SCENARIOS = ("miri_lrs_slit", "miri_lrs_slitless", "miri_lrs_slit_ints")
# step: (products it may start from, the last one that exists counts; references)
STEPS = {
    "srctype": (("assign_wcs", "badpix_selfcal", "bsub", "bsubints"), ()),
    "flat_field": (("srctype", "targ_centroid"), ("flat",)),
    "pathloss": (("flat_field",), ("pathloss",)),
    "photom": (("flat_field", "pathloss"), ("photom",)),
}


def the_step(name):
    return getattr(importlib.import_module(f"spec2fn.steps.{name}"), name)


def one(folder, pattern):
    found = sorted(folder.glob(pattern))
    return found[0] if found else None


def setup(folder, name):
    before, reftypes = STEPS[name]
    steps = folder / "steps"
    inputs = [p for kind in before if (p := one(steps, f"*_{kind}.fits")) is not None]
    ds = open_product(inputs[-1])
    files = [one(folder / "crds_cache/references/jwst/miri", f"*_{t}_*.fits") for t in reftypes]
    refs = [None if f is None else open_reference(f) for f in files]
    output = one(steps, f"*_{name}.fits")
    return ds, refs, None if output is None else open_product(output)


def assert_same(ours, theirs, allowed):
    for name, plane in PLANES.items():
        assert (name in ours) == (name in theirs) or plane.kind == "aux", name
        if name not in ours or name not in theirs:
            continue
        if plane.kind == "flag":
            np.testing.assert_array_equal(ours[name].values, theirs[name].values)
            continue
        allowed("steps").agree(ours[name].values, theirs[name].values, name)
        assert ours[name].attrs.get("units") == theirs[name].attrs.get("units"), name
    for attr in ("source_type", "source_type_apt", "model"):
        assert ours.attrs.get(attr) == theirs.attrs.get(attr), attr
    for name in ("photmjsr", "photuja2", "pixar_sr", "pixar_a2", "source_xpos", "source_ypos"):
        assert (name in ours) == (name in theirs), name
        if name in ours:
            allowed("keywords").close(ours[name].values, theirs[name].values)


@pytest.mark.parametrize("scenario_name", SCENARIOS)
@pytest.mark.parametrize("step_name", STEPS)
def test_step_equals_the_peer_s(step_name, scenario_name, scenario, allowed):
    ds, refs, theirs = setup(scenario(scenario_name), step_name)
    ours = the_step(step_name)(ds, *refs)
    if theirs is None:
        assert status_of(ours, step_name).startswith("SKIPPED: no pathloss reference")
        return
    assert status_of(ours, step_name) == "COMPLETE"
    assert_same(ours, theirs, allowed)


def peer_result(function, source, tmp_path):
    """The peer's `function` of the model in a file, written and read back."""
    from stdatamodels.jwst import datamodels

    path = tmp_path / "peer.fits"
    with datamodels.open(source) as model:
        function(model).save(path)
    return open_product(path)


@pytest.mark.parametrize("user_slit_loc", [0.1, -0.2])
def test_user_slit_loc(user_slit_loc, scenario, allowed, tmp_path):
    from jwst.pathloss.pathloss import do_correction
    from stdatamodels.jwst import datamodels

    folder = scenario("miri_lrs_slit")
    ds, refs, _ = setup(folder, "pathloss")
    reference = datamodels.MirLrsPathlossModel(
        one(folder / "crds_cache/references/jwst/miri", "*_pathloss_*.fits")
    )
    theirs = peer_result(
        lambda m: do_correction(m, reference, user_slit_loc=user_slit_loc)[0],
        one(folder / "steps", "*_flat_field.fits"),
        tmp_path,
    )
    ours = the_step("pathloss")(ds, *refs, user_slit_loc=user_slit_loc)
    assert_same(ours, theirs, allowed)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("apply_time_correction", [False, True])
def test_photom_parameters(inverse, apply_time_correction, scenario, allowed, tmp_path):
    from jwst.photom.photom import DataSet

    folder = scenario("miri_lrs_slit")
    ds, refs, _ = setup(folder, "photom")
    reference = str(one(folder / "crds_cache/references/jwst/miri", "*_photom_*.fits"))
    theirs = peer_result(
        lambda m: DataSet(m, inverse, None, apply_time_correction).apply_photom(reference, None),
        one(folder / "steps", "*_pathloss.fits"),
        tmp_path,
    )
    ours = the_step("photom")(
        ds, *refs, inverse=inverse, apply_time_correction=apply_time_correction
    )
    assert_same(ours, theirs, allowed)


def test_flat_field_inverse(scenario, allowed, tmp_path):
    from jwst.flatfield.flat_field import do_correction
    from stdatamodels.jwst import datamodels

    folder = scenario("miri_lrs_slit")
    ds, refs, _ = setup(folder, "flat_field")
    reference = one(folder / "crds_cache/references/jwst/miri", "*_flat_*.fits")
    theirs = peer_result(
        lambda m: do_correction(m, flat=datamodels.FlatModel(reference), inverse=True)[0],
        one(folder / "steps", "*_targ_centroid.fits"),
        tmp_path,
    )
    ours = the_step("flat_field")(ds, *refs, inverse=True)
    assert_same(ours, theirs, allowed)
