import json

import numpy as np
import pytest

from spec2fn.errors import InputError
from spec2fn.io import diff, save
from spec2fn.schema import replace_data, with_attrs


@pytest.fixture
def pair(tmp_path, image_product):
    """``pair(change, suffix)``: a product and a changed one."""

    def make(change=lambda ds: ds, a="a.fits", b="b.fits", ds=None):
        ds = image_product() if ds is None else ds
        return save(ds, tmp_path / a), save(change(ds), tmp_path / b)

    return make


@pytest.mark.parametrize(("a", "b"), [("a.fits", "b.fits"), ("a.fits", "b.nc"), ("a.nc", "b.nc")])
def test_same(pair, a, b):
    report = diff(*pair(a=a, b=b))
    assert report.same
    assert report.worst == 1
    assert {"SCI", "DQ", "INT_TIMES.integration_number"} <= {p.name for p in report.files[0].planes}
    assert "same" in str(report)


def test_spectra(pair, spectra_product):
    ds = spectra_product(3)
    report = diff(*pair(lambda d: replace_data(d, flux=d["flux"].values * 1.01), ds=ds))
    plane = next(p for p in report.files[0].planes if p.name == "EXTRACT1D.FLUX")
    assert 0 <= plane.ok < 0.2
    assert plane.max_rel == pytest.approx(0.01, rel=1e-6)
    assert not report.same


def _plane(report, name):
    return next(p for p in report.files[0].planes if p.name == name)


def test_numbers(pair):
    def change(ds):
        sci = ds["sci"].values.copy()
        sci[0, 1, 1] *= 2
        sci[0, 1, 2] = np.nan
        dq = ds["dq"].values.copy()
        dq[1, 2, 3] ^= 5
        return replace_data(ds, sci=sci, dq=dq)

    report = diff(*pair(change))
    n = 4 * 6 * 5 - 4
    sci = _plane(report, "SCI")
    assert sci.n == n
    assert sci.ok == pytest.approx((n - 2) / n)
    assert sci.nan == pytest.approx(1 / n)
    assert 0.5 < sci.max_rel <= 1.1
    dq = _plane(report, "DQ")
    assert dq.bits == "0x5"
    assert dq.ok == pytest.approx(119 / 120)
    assert "bits 0x5" in str(report)


def test_tolerances(pair):
    files = pair(lambda ds: replace_data(ds, sci=ds["sci"].values + np.float32(1e-3)))
    assert _plane(diff(*files), "SCI").ok < 0.1
    assert _plane(diff(*files, rtol=1e-3), "SCI").ok == 1
    assert _plane(diff(*files, rtol=0, atol=2e-3), "SCI").ok == 1


def test_problems(pair):
    def change(ds):
        ds = replace_data(ds.drop_vars("var_rnoise"), units="Jy", sci=ds["sci"].values)
        ds["var_flat"] = ds["var_poisson"]
        return with_attrs(ds, model="CubeModel", dispaxis=1)

    report = diff(*pair(change))
    text = " ; ".join(report.problems)
    for words in ("SlitModel | CubeModel", "VAR_RNOISE: missing", "VAR_FLAT: only", "MJy/sr | Jy"):
        assert words in text
    assert report.files[0].keywords["SCI.DISPAXIS"] == (2, 1)
    assert not report.same
    json.dumps(report.as_dict())


def test_last_digits_of_keywords_do_not_count(pair):
    def changed_by(relative):
        def change(ds):
            return ds.assign(photmjsr=ds["photmjsr"] * (1 + relative))

        return diff(*pair(change)).files[0].keywords

    assert not changed_by(1e-11)
    assert changed_by(1e-7)


def test_shapes(tmp_path, image_product):
    ds = image_product()
    a, b = save(ds, tmp_path / "a.fits"), save(ds.isel(integration=[0, 1]), tmp_path / "b.fits")
    assert "shape (4, 6, 5) | (2, 6, 5)" in " ".join(diff(a, b).problems)


def test_folders(tmp_path, image_product):
    ds = image_product(wcs=None)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(ds, tmp_path / folder / "p_cal.fits")
    assert diff(tmp_path / "a", tmp_path / "b").same
    save(ds, tmp_path / "a" / "p_s2d.fits")
    report = diff(tmp_path / "a", tmp_path / "b")
    assert "p_s2d: missing in" in report.problems[0]
    assert not report.same


def test_paths_that_cannot_be_compared(tmp_path, exposure):
    with pytest.raises(InputError, match="no such file"):
        diff(tmp_path / "x", tmp_path / "y")
    with pytest.raises(InputError, match="one is a folder"):
        diff(exposure(), tmp_path)
