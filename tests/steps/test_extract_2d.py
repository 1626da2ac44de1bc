"""Cutting out the spectra of slits."""

import numpy as np
import pytest

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError, NoDataOnDetectorError
from spec2fn.schema import meta_of, status_of
from spec2fn.slits import PADDING
from spec2fn.steps.assign_wcs import assign_wcs
from spec2fn.steps.extract_2d import extract_2d
from spec2fn.testing import nirspec as toy


def assigned(exp_type="NRS_FIXEDSLIT", grating="PRISM", **keywords):
    members = (toy.msa_metadata(),) if exp_type == "NRS_MSASPEC" else ()
    ds = toy.exposure(exp_type, grating, **keywords)
    return assign_wcs(ds, **toy.references(grating), msa_metadata=members)


def cut(ds, **parameters):
    return extract_2d(ds, **parameters)


@pytest.fixture(scope="module")
def mos():
    return assigned("NRS_MSASPEC")


@pytest.mark.parametrize("exp_type", ["NRS_FIXEDSLIT", "NRS_MSASPEC"])
def test_pixels_are_those_of_the_exposure(exp_type):
    ds = assigned(exp_type)
    slits = cut(ds)
    assert len(slits) == len(meta_of(ds).records["slits"])
    assert slits.attrs["status_extract_2d"] == "COMPLETE"
    for slit in slits:
        x0, y0 = int(slit["xstart"]) - 1, int(slit["ystart"]) - 1
        window = {"y": slice(y0, y0 + slit.sizes["y"]), "x": slice(x0, x0 + slit.sizes["x"])}
        for name in ("sci", "err", "dq"):
            np.testing.assert_array_equal(slit[name], ds[name].isel(window))
            assert slit[name].dtype == ds[name].dtype
        assert (slit.sizes["x"], slit.sizes["y"]) == (int(slit["xsize"]), int(slit["ysize"]))


def test_world_coordinates_are_those_of_the_gwcs(mos):
    slits = cut(mos)
    before, after = meta_of(mos).wcs, meta_of(slits.buckets[0]).wcs
    assert tuple(after) == slits.ids
    for slit in slits:
        key = int(slit["slit"])
        y, x = np.mgrid[: slit.sizes["y"], : slit.sizes["x"]].astype(float)
        shifted = before[key](
            x + int(slit["xstart"]) - 1, y + int(slit["ystart"]) - 1, with_bounding_box=False
        )
        for name, a, b in zip(("ra", "dec", "wavelength"), after[key](x, y), shifted, strict=True):
            np.testing.assert_allclose(slit[name], a, rtol=1e-12)
            np.testing.assert_allclose(a, b, rtol=1e-13)
        along, wavelength = after.slit_frame(np.array(key), x, y)
        np.testing.assert_allclose(wavelength * 1e6, slit["wavelength"], rtol=1e-12)
        assert np.nanmax(along) <= float(slit["slit_ymax"])
        assert tuple(map(tuple, after[key].bounding_box.bounding_box(order="F"))) == (
            (-0.5, slit.sizes["x"] - 0.5),
            (-0.5, slit.sizes["y"] - 0.5),
        )


def test_padding(mos):
    bucket = max(cut(mos).buckets, key=lambda b: b.sizes["slit"])
    assert bucket.sizes["slit"] > 1
    inside = np.arange(bucket.sizes["x"]) < bucket["xsize"].values[:, None, None]
    inside = inside & (
        np.arange(bucket.sizes["y"])[:, None] < bucket["ysize"].values[:, None, None]
    )
    assert not inside.all()
    assert np.isnan(bucket["sci"].values[~inside]).all()
    assert np.isnan(bucket["wavelength"].values[~inside]).all()
    assert (bucket["dq"].values[~inside] == PADDING).all()
    assert PADDING & PIXEL["DO_NOT_USE"]
    assert (bucket["dq"].values[inside] == 0).all()


def test_selection_before_is_selection_after(mos):
    everything = cut(mos)
    for chosen, after in (
        ({"slit_names": ("2", "S200A1")}, everything.select(names=("2", "S200A1"))),
        ({"source_ids": (-7, 1)}, everything.select(source_ids=(-7, 1))),
        ({"slit_names": ("4",), "source_ids": (9,)}, everything.select(("4",), (9,))),
    ):
        before = cut(mos, **chosen)
        assert before.ids == after.ids
        assert before.names == after.names
        for a, b in zip(before, after, strict=True):
            assert set(a.data_vars) == set(b.data_vars)
            for name in a.data_vars:
                np.testing.assert_array_equal(a[name], b[name], err_msg=str(name))


def test_unknown_selections(mos):
    with pytest.raises(InputError, match=r"no open slit 'S200A2'.*did you mean 'S200A1'"):
        cut(mos, slit_names=("1", "S200A2"))
    with pytest.raises(InputError, match="no open slit holds source 77; there are -7, 1, 2, 4, 9"):
        cut(mos, source_ids=(77,))


def test_variables_of_a_slitlet(mos):
    slit = cut(mos).slit("1")
    expected = {
        "source_id": 1,
        "source_name": "1234_1",
        "source_alias": "one",
        "source_type": "UNKNOWN",
        "stellarity": 0.9,
        "quadrant": 3,
        "xcen": 67,
        "ycen": 60,
        "slitlet_id": 1,
        "shutter_id": 67 + 59 * 365,
        "shutter_state": "1x1",
        "dither_position": 1,
        "source_ra": 53.1,
        "source_dec": -27.8,
    }
    assert {name: slit[name].item() for name in expected} == expected
    assert float(slit["source_xpos"]) == pytest.approx(0.1)
    corners = np.array(slit["s_region"].item().split()[2:], dtype=float).reshape(4, 2)
    ra, dec = slit["ra"].values, slit["dec"].values
    # light is taken to come from the middle of the slit: within the corners
    assert corners[:, 0].min() < np.nanmin(ra) < np.nanmax(ra) < corners[:, 0].max()
    assert corners[:, 1].min() < np.nanmin(dec) < np.nanmax(dec) < corners[:, 1].max()


def test_the_source_is_where_the_dither_puts_it():
    ds = assigned()
    slits = cut(ds)
    # move the telescope such that the target falls on (0.2, -0.1) of the primary slit
    wcs = meta_of(slits.buckets[0]).wcs[0]
    v2, v3, _ = wcs.get_transform("slit_frame", "v2v3")(0.2, -0.1, 2e-6)
    moved = cut(assigned(XOFFSET=0.0, YOFFSET=0.0, V2_REF=float(v2), V3_REF=float(v3)))
    assert float(moved.slit("S200A1")["source_xpos"]) == pytest.approx(0.2, abs=1e-9)
    assert float(moved.slit("S200A1")["source_ypos"]) == pytest.approx(-0.1, abs=1e-9)
    assert float(moved.slit("S400A1")["source_xpos"]) == 0
    again = cut(assigned(V2_REF=float(v2), V3_REF=float(v3), XOFFSET=0.01, YOFFSET=-0.02))
    assert abs(float(again.slit("S200A1")["source_xpos"]) - 0.2) > 1e-3


@pytest.mark.parametrize("keyword", ["XOFFSET", "YOFFSET", "V3I_YANG", "VPARITY"])
def test_where_the_target_is_in_its_slit_is_never_assumed(keyword):
    with pytest.raises(InputError, match=f"extract_2d: keyword {keyword} is missing"):
        cut(assigned(**{keyword: None}))


def test_integrations():
    ds = assigned("NRS_BRIGHTOBJ", subarray="SUB512", window=(1101, 941, 512, 64), integrations=3)
    ds = ds.assign(int_mid_mjd_utc=("integration", np.arange(3.0)))
    slits = cut(ds)
    assert slits.attrs["model"] == "SlitModel"
    (bucket,) = slits.buckets
    assert bucket["sci"].dims == ("slit", "integration", "y", "x")
    assert bucket["wavelength"].dims == ("slit", "y", "x")
    np.testing.assert_array_equal(bucket["int_mid_mjd_utc"], np.arange(3.0))
    window = {axis: slice(int(bucket[f"{axis}start"][0]) - 1, None) for axis in ("x", "y")}
    expected = ds["sci"].isel(window)[..., : bucket.sizes["y"], : bucket.sizes["x"]]
    np.testing.assert_array_equal(bucket["sci"][0], expected)
    # in a bucket of several slits as well
    several = cut(assigned("NRS_MSASPEC", integrations=2))
    plain = cut(assigned("NRS_MSASPEC"))
    for a, b in zip(several, plain, strict=True):
        np.testing.assert_array_equal(a["sci"][0], b["sci"])
        np.testing.assert_array_equal(a["sci"][1], b["sci"] + 10000)


def test_one_plan_serves_every_integration():
    ds = assigned("NRS_MSASPEC", integrations=3)
    plan = extract_2d.plan(ds)
    whole = extract_2d(ds, plan=plan)
    part = extract_2d(ds.isel(integration=slice(1, 2)), plan=plan)
    for a, b in zip(whole.buckets, part.buckets, strict=True):
        np.testing.assert_array_equal(a["sci"][:, 1:2], b["sci"])


def test_slits_beyond_a_subarray():
    # rows 941 to 1004 hold S1600A1 and part of S400A1; the others are above
    slits = cut(assigned(subarray="ALLSLITS", window=(1, 941, 2048, 64)))
    assert slits.names == ("S400A1", "S1600A1")
    assert all(s["sci"].size for s in slits)
    assert slits.slit("S400A1").sizes["y"] < 30
    warnings = meta_of(slits.buckets[0]).records["warnings"]
    assert any("slit S200A1 is left out" in w for w in warnings)
    with pytest.raises(NoDataOnDetectorError, match="no pixel of the image sees a slit"):
        cut(assigned(subarray="ALLSLITS", window=(1, 101, 2048, 64)))


def test_the_exposure_is_not_changed(mos):
    before = {name: var.copy(deep=True) for name, var in mos.variables.items()}
    attrs = dict(mos.attrs)
    cut(mos)
    assert mos.attrs == attrs
    for name, var in before.items():
        np.testing.assert_array_equal(mos[name].values, var.values)


def test_needs_assign_wcs():
    with pytest.raises(DatasetError, match="run assign_wcs first"):
        cut(toy.exposure())
    other = extract_2d(toy.exposure(exp_type="NRS_IFU"))
    assert status_of(other, "extract_2d") == "SKIPPED: EXP_TYPE NRS_IFU has no slits to cut out"


def test_traced_pixels():
    import jax
    import jax.numpy as jnp

    ds = assigned("NRS_MSASPEC")
    plan = extract_2d.plan(ds)

    def total(sci):
        slits = extract_2d.function(ds.assign(sci=(("y", "x"), sci)), plan=plan)
        return sum(jnp.nansum(b["sci"].data) for b in slits.buckets)

    slope = np.asarray(jax.grad(total)(jnp.asarray(ds["sci"].values)))
    counted = np.zeros(slope.shape)
    for slit in cut(ds):
        x0, y0 = int(slit["xstart"]) - 1, int(slit["ystart"]) - 1
        counted[y0 : y0 + slit.sizes["y"], x0 : x0 + slit.sizes["x"]] += 1
    np.testing.assert_array_equal(slope, counted)
