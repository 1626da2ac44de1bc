"""Output grids that the user gives."""

import asdf
import numpy as np
import pytest

from spec2fn.errors import InputError, ParameterError
from spec2fn.wcs.custom_grid import custom_grid, load_custom_wcs
from spec2fn.wcs.evaluate import sample_slit
from spec2fn.wcs.tangent_grid import build_tangent_plane
from tests.wcs.test_tangent_grid import SCALE, slit_wcs


def given(source, output_shape=None):
    custom = load_custom_wcs(source, output_shape)
    return custom_grid(custom, dispaxis=2, size_in_deg=SCALE / 3600, area_in=1e-13)


def test_survives_asdf(tmp_path):
    out = build_tangent_plane(sample_slit(slit_wcs()), 2, 1.0, descending=True)
    asdf.AsdfFile({"wcs": out}).write_to(tmp_path / "wcs.asdf")
    grid, ratio, _ = given(str(tmp_path / "wcs.asdf"))
    assert grid.shape == out.array_shape
    np.testing.assert_allclose(grid.wcs(3.0, 7.0), out(3.0, 7.0), rtol=1e-14)
    np.testing.assert_allclose(grid.wcs.invert(*out(3.0, 7.0)), (3, 7), rtol=1e-8)
    assert ratio == pytest.approx(1, abs=1e-4)


def test_custom_grid(tmp_path):
    out = build_tangent_plane(sample_slit(slit_wcs()), 2, 1.0, descending=True)
    assert given(out, (12, 34))[0].shape == (34, 12)
    assert out.array_shape != (34, 12)

    def saved(**tree):
        asdf.AsdfFile({"wcs": out, **tree}).write_to(tmp_path / "wcs.asdf")
        return str(tmp_path / "wcs.asdf")

    _, ratio, area = given(saved(pixel_scale=SCALE / 2))
    assert ratio == pytest.approx(2)
    assert area == pytest.approx(5e-14)
    arcsec2 = 2e-13 * np.rad2deg(3600.0) ** 2
    _, ratio, area = given(saved(pixel_area=arcsec2))
    assert ratio == pytest.approx(0.5)
    assert area == pytest.approx(2e-13)

    out.array_shape = None
    assert given(saved(pixel_shape=(7, 9)))[0].shape == (9, 7)
    shape = given(saved())[0].shape
    assert shape == tuple(int(high + 0.5) for _, high in out.bounding_box.bounding_box("F")[::-1])
    out.bounding_box = None
    with pytest.raises(ParameterError, match="output_shape"):
        given(out)


def test_custom_grid_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="not a file"):
        given(str(tmp_path / "none.asdf"))
    (tmp_path / "bad.asdf").write_text("no")
    with pytest.raises(InputError, match="readable ASDF"):
        given(str(tmp_path / "bad.asdf"))
    asdf.AsdfFile({"other": 1}).write_to(tmp_path / "empty.asdf")
    with pytest.raises(InputError, match="key 'wcs'"):
        given(str(tmp_path / "empty.asdf"))
    with pytest.raises(InputError, match="three world axes"):
        given(object())
