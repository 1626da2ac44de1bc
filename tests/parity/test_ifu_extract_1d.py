"""extract_1d on cubes against the peer, which extracts from its own cube."""

import numpy as np
import pytest

from spec2fn.io import open_product
from spec2fn.refs import open_reference
from spec2fn.schema import RESIDUAL_FRINGES, SPECTRUM_COLUMNS
from spec2fn.steps.extract_1d import extract_1d

pytestmark = pytest.mark.parity

SCENARIOS = ["nrs_ifu_prism", "nrs_ifu_g395m", "miri_mrs_12short"]


def compare(out, table, row, skip=()):
    for name, (column, _) in SPECTRUM_COLUMNS.items():
        if column not in table.dtype.names or name in skip:
            continue
        values = out[name].values.reshape(-1)
        if name == "dq":
            np.testing.assert_array_equal(values, table[column])
        else:
            row.agree(values, np.asarray(table[column], dtype=float), name)


def references(folder):
    # the CRDS client makes empty folders for the other instruments
    crds = folder / "crds_cache" / "references" / "jwst"
    paths = {k: next(crds.glob(f"*/*_{k}_*.asdf")) for k in ("extract1d", "apcorr")}
    return paths, {k: open_reference(p, k) for k, p in paths.items()}


@pytest.fixture(scope="module", params=SCENARIOS)
def case(request, scenario):
    """The peer's cube as a Dataset, its path, and the references."""
    folder = scenario(request.param)
    (path,) = (folder / "steps").glob("*_s3d.fits")
    return open_product(path), path, *references(folder)


def test_spectrum_and_header(case, allowed):
    from astropy.io import fits

    ds, path, _, refs = case
    out = extract_1d(ds, **refs)
    with fits.open(path.with_name(path.name.replace("s3d", "x1d"))) as hdus:
        theirs = hdus["EXTRACT1D"]
        compare(out, theirs.data, allowed("spectra"))
        for keyword in ("EXTR_X", "EXTR_Y", "SLIT_RA", "SLIT_DEC", "SRCTYPE", "SLTNAME"):
            value = out[keyword.lower()].values[0]
            if isinstance(theirs.header[keyword], str):
                assert value == theirs.header[keyword]
            else:
                assert value == allowed("keywords").approx(theirs.header[keyword])
        assert out.attrs["model"] == hdus[0].header["DATAMODL"]
        if ds.attrs["exp_type"] == "MIR_MRS":
            assert all(
                np.isnan(theirs.data[SPECTRUM_COLUMNS[n][0]]).all() for n in RESIDUAL_FRINGES
            )


def peer_table(path, refs, source_type="POINT", **given):
    from jwst.extract_1d.ifu import ifu_extract1d
    from stdatamodels.jwst import datamodels

    with datamodels.open(path) as model:
        out = ifu_extract1d(
            model,
            str(refs["extract1d"]),
            source_type,
            given.pop("subtract_background", None),
            given.pop("bkg_sigma_clip", 3.0),
            str(refs["apcorr"]) if given.pop("apply_apcorr", True) else None,
            **given,
        )
        return np.array(out.spec[0].spec_table)


@pytest.mark.parametrize(
    "parameters",
    [
        {"source_type": "EXTENDED"},
        {"subtract_background": False},
        pytest.param({"apply_apcorr": False}, marks=pytest.mark.nightly),
        {"ifu_autocen": True},
        {"center_xy": (12.3, 20.7)},
        pytest.param({"center_xy": (3.0, 38.2)}, marks=pytest.mark.nightly),
        pytest.param({"ifu_covar_scale": 1.6}, marks=pytest.mark.nightly),
        {"bkg_sigma_clip": 2.0},
    ],
    ids=str,
)
def test_parameters(scenario, allowed, parameters):
    folder = scenario("nrs_ifu_prism")
    (path,) = (folder / "steps").glob("*_s3d.fits")
    paths, refs = references(folder)
    ours = dict(parameters)
    ds = open_product(path).assign_attrs(source_type=ours.pop("source_type", "POINT"))
    out = extract_1d(ds, **refs, **ours)
    compare(out, peer_table(path, paths, **parameters), allowed("spectra"))


def test_radii_in_widths_of_the_point_spread_function(scenario, allowed):
    folder = scenario("miri_mrs_12short")
    (path,) = (folder / "steps").glob("*_s3d.fits")
    paths, refs = references(folder)
    out = extract_1d(open_product(path), **refs, ifu_rscale=1.2)
    compare(out, peer_table(path, paths, ifu_rscale=1.2), allowed("spectra"))


@pytest.mark.nightly
def test_without_a_correction_of_residual_fringes(scenario, allowed):
    folder = scenario("miri_mrs_34long")
    (path,) = (folder / "steps").glob("*_s3d.fits")
    paths, refs = references(folder)
    out = extract_1d(open_product(path).assign_attrs(source_type="POINT"), **refs, ifu_rfcorr=False)
    assert not any(np.isfinite(out[name]).any() for name in out if name.startswith("rf_"))
    compare(out, peer_table(path, paths, ifu_rfcorr=False), allowed("spectra"))


@pytest.mark.parametrize(("name", "channel"), [("miri_mrs_12short", 1), ("miri_mrs_34long", 4)])
def test_residual_fringes_of_a_band(scenario, allowed, name, channel):
    from jwst.residual_fringe.utils import fit_residual_fringes_1d

    folder = scenario(name)
    (path,) = (folder / "steps").glob("*_s3d.fits")
    ds = open_product(path)
    # the half of the cube that holds this channel, with fringes of 2.9 and 0.4 cm-1
    seen = (ds["wmap"].values > 0).any(axis=(1, 2))
    gap = np.flatnonzero(~seen)
    middle = gap[len(gap) // 2]
    index = np.flatnonzero(seen)
    ds = ds.isel(wave=index[index < middle] if channel % 2 else index[index > middle])
    ds = ds.assign_attrs(channel=str(channel), band="SHORT")
    phase = 2 * np.pi * 1e4 / ds["wavelength"].values
    fringes = 1 + 0.06 * np.sin(phase / 2.9 + 1) + 0.03 * np.sin(phase / 2.7)
    if channel > 2:
        fringes += 0.05 * np.sin(phase / 0.4)
    sci = (ds["sci"].values * fringes[:, None, None]).astype(np.float32)
    ds = ds.assign(sci=(ds["sci"].dims, sci, ds["sci"].attrs))
    _, refs = references(folder)
    plan = extract_1d.plan(ds, **refs)
    out = extract_1d(ds, plan=plan)
    scale = plan.correction * float(ds["pixar_sr"]) * 1e6
    raw = out["flux"].values[0] / scale
    known = {
        "rf_flux": (raw, scale),
        "rf_surf_bright": (raw / out["npixels"].values[0], plan.correction),
        "rf_background": (out["background"].values[0], 1.0),
    }
    for column, (spectrum, factor) in known.items():
        theirs = fit_residual_fringes_1d(spectrum, plan.wavelength, channel=channel) * factor
        ours = out[column].values[0]
        row = allowed("residual_fringes")
        row.agree(ours, theirs, column)
        assert row.fraction(spectrum * factor, theirs) < 0.6, column
