"""Tiny files and Datasets for the tests of spec2fn.io."""

import numpy as np
import pytest
import xarray as xr

from spec2fn.schema import Meta


def _primary(exp_type="MIR_LRS-SLITLESS", **keywords):
    from astropy.io import fits

    cards = [
        ("DATE", "2024-01-01T00:00:00.000", "UTC date file created"),
        ("FILENAME", "jw_test_rate.fits", "Name of the file"),
        ("CAL_VER", "1.0.0", "Calibration Software Version"),
        ("DATAMODL", "CubeModel", "Type of data model"),
        ("TELESCOP", "JWST", "Telescope used to acquire the data"),
        ("", "", ""),
        ("", "Exposure parameters", ""),
        ("", "", ""),
        ("INSTRUME", "MIRI", "Instrument used to acquire the data"),
        ("DETECTOR", "MIRIMAGE", "Name of detector used to acquire the data"),
        ("FILTER", "P750L", "Name of the filter element used"),
        ("EXP_TYPE", exp_type, "Type of data in the exposure"),
        ("EXPMID", 60370.5, "[d] exposure mid time in MJD"),
        ("DURATION", 100.0, "[s] Total duration of exposure"),
        ("TSOVISIT", True, "Time Series Observation visit indicator"),
        ("SUBARRAY", "SLITLESSPRISM", "Subarray used"),
        ("SUBSTRT1", 1, "Starting pixel in axis 1 direction"),
        ("SUBSTRT2", 529, "Starting pixel in axis 2 direction"),
        ("SUBSIZE1", 5, "Number of pixels in axis 1 direction"),
        ("SUBSIZE2", 6, "Number of pixels in axis 2 direction"),
        ("YOFFSET", 0.0, "[arcsec] Y offset in SI ideal coordinate frame"),
        ("", "", ""),
        ("", "Calibration step information", ""),
        ("", "", ""),
        ("S_RAMP", "COMPLETE", "Ramp Fitting"),
    ]
    header = fits.Header()
    for keyword, usual, comment in cards:
        value = keywords.pop(keyword, usual)
        if value is not None:
            header.append((keyword, value, comment), end=True)
    for keyword, value in keywords.items():
        if value is not None:
            header[keyword] = value
    return header


def _science(**keywords):
    from astropy.io import fits

    header = fits.Header()
    for keyword, value in {
        "BUNIT": "DN/s",
        "XPOSURE": 100.0,
        "PA_APER": 34.83,
        "V2_REF": -414.8,
        "VELOSYS": 12.5,
        **keywords,
    }.items():
        if value is not None:
            header[keyword] = value
    return header


@pytest.fixture
def primary():
    return _primary


@pytest.fixture
def planes():
    """``planes(shape)``: arrays of an exposure by extension name."""

    def make(shape=(4, 6, 5), seed=1):
        rng = np.random.default_rng(seed)
        sci = rng.normal(10, 1, shape).astype(np.float32)
        sci[..., 0, 0] = np.nan
        dq = rng.integers(0, 2**32, shape, dtype=np.uint32)
        return {
            "SCI": sci,
            "ERR": np.abs(sci),
            "DQ": dq,
            "VAR_POISSON": sci**2,
            "VAR_RNOISE": sci**2 / 2,
        }

    return make


@pytest.fixture
def exposure(tmp_path, planes):
    """``exposure(name, shape, arrays, int_times, primary keywords…)``: path of a written file."""

    def make(name="jw_test_rateints.fits", shape=(4, 6, 5), arrays=None, times=True, **keywords):
        from astropy.io import fits

        arrays = planes(shape) if arrays is None else arrays
        integrations = shape[0] if len(shape) == 3 else 1
        if len(shape) == 2:
            keywords.setdefault("DATAMODL", "ImageModel")
        keywords.setdefault("NINTS", integrations)
        science = {k: keywords.pop(k) for k in ("SRCTYPE", "DISPAXIS") if k in keywords}
        hdus = [fits.PrimaryHDU(header=_primary(**keywords))]
        for ext, data in arrays.items():
            header = _science(**science) if ext == "SCI" else None
            hdus.append(fits.ImageHDU(data, header=header, name=ext))
        if times and len(shape) == 3:
            rows = integrations if times is True else times
            names = ["start_MJD_UTC", "mid_MJD_UTC", "end_MJD_UTC"]
            names += ["start_BJD_TDB", "mid_BJD_TDB", "end_BJD_TDB"]
            columns = [
                fits.Column("integration_number", "J", array=np.arange(1, rows + 1)),
                *(
                    fits.Column(f"int_{n}", "D", array=60000 + i + np.arange(rows) / 8)
                    for i, n in enumerate(names)
                ),
            ]
            hdus.append(fits.BinTableHDU.from_columns(columns, name="INT_TIMES"))
        path = tmp_path / name
        fits.HDUList(hdus).writeto(path)
        return path

    return make


@pytest.fixture
def gwcs_object():
    """A small gwcs."""
    import gwcs
    from astropy import units
    from astropy.modeling import models
    from gwcs import coordinate_frames as frames

    detector = frames.Frame2D(name="detector", unit=(units.pix, units.pix))
    world = frames.Frame2D(name="world", unit=(units.deg, units.deg))
    table = models.Tabular1D(lookup_table=np.linspace(1.0, 2.0, 12), bounds_error=False)
    transform = models.Shift(1.5) & table
    return gwcs.WCS([(detector, transform), (world, None)])


@pytest.fixture
def image_product(planes, gwcs_object):
    """``image_product(shape)``: a calibrated product."""

    def make(shape=(4, 6, 5), wcs=gwcs_object, **records):
        dims = ("integration", "y", "x")[3 - len(shape) :]
        arrays = planes(shape)
        ds = xr.Dataset({k.lower(): (dims, v) for k, v in arrays.items()})
        ds["wavelength"] = (("y", "x"), np.linspace(5, 12, 30).reshape(6, 5))
        ds["pathloss_ps"] = (("y", "x"), np.full((6, 5), 0.9, np.float32))
        ds["photmjsr"] = 12.5
        ds["pixar_a2"] = 0.0120955435
        ds["dithered_ra"] = 53.1
        ds["ta_xpos"] = np.nan
        if len(shape) == 3:
            ds["integration_number"] = ("integration", np.arange(1, shape[0] + 1, dtype=np.int32))
            ds["int_mid_mjd_utc"] = ("integration", 60000 + np.arange(shape[0]) / 7)
        ds["sci"].attrs["units"] = ds["err"].attrs["units"] = "MJy/sr"
        records = {
            "references": {"flat": "crds://flat.fits", "photom": "N/A"},
            "crds_context": "jwst_0001.pmap",
            "asn_table": "asn.json",
            "run": {"steps": [{"name": "flat_field", "status": "COMPLETE"}], "é": 1},
            **records,
        }
        meta = Meta(_primary(), _science(), "jw_test_rate.fits", wcs, records)
        return ds.assign_attrs(
            model="SlitModel",
            exp_type="MIR_LRS-SLITLESS",
            instrument="MIRI",
            detector="MIRIMAGE",
            source_type="POINT",
            dispaxis=2,
            xstart=1,
            ystart=529,
            xsize=5,
            ysize=6,
            specsys="BARYCENT",
            s_region="POLYGON ICRS  53.100588017 -27.800442565 53.099331985 -27.799673132",
            status_assign_wcs="COMPLETE",
            status_flat_field="SKIPPED: no flat",
            status_photom="COMPLETE",
            meta=meta,
        )

    return make


@pytest.fixture
def spectra_product(gwcs_object):
    """``spectra_product(integrations)``: extracted spectra (None: one spectrum)."""

    def make(integrations=None, waves=7, seed=3, wcs=None):
        from spec2fn.schema import EXTRACTED

        rng = np.random.default_rng(seed)
        lead = () if integrations is None else (integrations,)
        dims = (*(("integration",) if lead else ()), "spectrum", "wave")
        ds = xr.Dataset()
        for name, (_, unit) in EXTRACTED.items():
            data = rng.normal(size=(*lead, 1, waves))
            if name == "dq":
                data = rng.integers(0, 2**32, data.shape, dtype=np.uint32)
            ds[name] = (dims, data, {"units": unit} if unit else {})
        ds["wavelength"] = (("spectrum", "wave"), np.linspace(5, 12, waves)[None], {"units": "um"})
        ds["n_wave"] = ("spectrum", np.array([waves], np.int32))
        ds["sltname"] = ("spectrum", np.array(["MIR_LRS"]))
        ds["srctype"] = ("spectrum", np.array(["POINT"]))
        ds["extrxstr"] = ("spectrum", np.array([33.5]))
        ds["slit_ra"] = ("spectrum", np.array([53.1]))
        ds["slit_dec"] = ("spectrum", np.array([-27.8]))
        ds["sporder"] = ("spectrum", np.array([1], np.int32))
        ds["source_xpos"] = 39.5
        if lead:
            ds["integration_number"] = ("integration", np.arange(1, integrations + 1, dtype="i4"))
            for i, edge in enumerate(("start", "mid", "end")):
                for j, scale in enumerate(("mjd_utc", "bjd_tdb")):
                    times = 60000 + i / 30 + j / 100 + np.arange(integrations) / 7
                    ds[f"int_{edge}_{scale}"] = ("integration", times)
        return ds.assign_attrs(
            model="TSOMultiSpecModel" if lead else "MultiSpecModel",
            exp_type="MIR_LRS-SLITLESS",
            instrument="MIRI",
            detector="MIRIMAGE",
            dispaxis=2,
            status_extract_1d="COMPLETE",
            meta=Meta(_primary(), _science(), "jw_test_rate.fits", wcs, {"run": {"a": 1}}),
        )

    return make
