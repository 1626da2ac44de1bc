"""Slitlets from the MSA metadata."""

import numpy as np
import pytest

from spec2fn.errors import InputError
from spec2fn.testing import nirspec as toy
from spec2fn.wcs.msa_slitlets import open_slitlets


def slitlets(msa=None, dither=1, **options):
    found = open_slitlets(msa or toy.msa_metadata(), 1, dither, program="01234", **options)
    return {s.name: s for s in found}


def test_a_source_in_three_shutters():
    slit = slitlets()["1"]
    assert (slit.quadrant, slit.xcen, slit.ycen) == (3, 67, 60)
    assert slit.shutter_id == 67 + 59 * 365
    assert slit.shutter_state == "1x1"
    # half a slit beyond the outer shutters, whose centres are 1.15 apart
    assert (slit.ymin, slit.ymax) == pytest.approx((-2.2, 2.2))
    assert (slit.source_id, slit.source_name, slit.source_alias) == (1, "1234_1", "one")
    assert slit.stellarity == 0.9
    assert (slit.source_xpos, slit.source_ypos) == pytest.approx((0.1, 0.1))
    assert (slit.source_ra, slit.source_dec) == (53.1, -27.8)


def test_a_source_that_is_not_in_the_catalogue():
    slit = slitlets()["3"]
    assert (slit.source_id, slit.source_name, slit.source_alias) == (-7, "1234_VRT3", "VRT3")
    assert (slit.ymin, slit.ymax) == pytest.approx((-1.05, 1.05))
    assert slit.shutter_state == "x"


def test_background():
    slit = slitlets()["4"]
    assert (slit.source_id, slit.source_name, slit.source_alias) == (4, "1234_BKG4", "BKG4")
    assert (slit.xcen, slit.ycen) == (200, 31)
    # columns 30, 31 and 33; the middle one takes the part of the main shutter
    assert slit.shutter_state == "1x01"
    assert (slit.ymin, slit.ymax) == pytest.approx((-1.05 - 1.15, 1.05 + 2 * 1.15))
    assert (slit.source_xpos, slit.source_ypos, slit.source_ra) == (0.0, 0.0, 0.0)


def test_fixed_slit_among_slitlets():
    slit = slitlets(y_range=(-0.5, 0.6))["S200A1"]
    assert slit.fixed
    assert (slit.quadrant, slit.shutter_id, slit.slitlet_id) == (5, 0, 0)
    assert (slit.ymin, slit.ymax) == (-0.5, 0.6)
    assert (slit.source_id, slit.source_name) == (9, "1234_9")


def test_fixed_slit_without_a_source_is_left_out():
    row = {"fixed_slit": "S400A1", "shutter_row": 0, "primary_source": "N"}
    assert "S400A1" not in slitlets(toy.msa_metadata((row,)))


def test_files_without_fixed_slits():
    old = toy.msa_metadata().drop_vars("shutter_info.fixed_slit")
    old = old.isel(shutter_info_row=slice(0, 9))
    assert set(slitlets(old)) == {"1", "2", "3", "4"}


def test_order_of_the_file():
    assert list(slitlets()) == ["1", "2", "3", "4", "S200A1"]
    rows = np.arange(toy.msa_metadata().sizes["shutter_info_row"] - 1)[::-1]
    assert list(slitlets(toy.msa_metadata().isel(shutter_info_row=rows)))[-1] == "1"


def test_unusable_slitlets():
    shutter = {"slitlet_id": 1, "shutter_quadrant": 3, "shutter_row": 67}
    second = {**shutter, "shutter_column": 62, "primary_source": "Y", "background": "N"}
    with pytest.raises(InputError, match=r"slitlet 1 .* has 2 shutters with a source"):
        slitlets(toy.msa_metadata((second,)))
    again = {"fixed_slit": "S200A1", "primary_source": "Y"}
    with pytest.raises(InputError, match="lists fixed slit S200A1 2 times"):
        slitlets(toy.msa_metadata((again,)))
    with pytest.raises(InputError, match="no dither index PATT_NUM=2"):
        slitlets(dither=2)
