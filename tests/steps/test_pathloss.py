import dataclasses

import jax
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.dq import PIXEL
from spec2fn.errors import DatasetError, InputError, ParameterError, ReferenceError
from spec2fn.schema import Meta, status_of
from spec2fn.steps.pathloss import pathloss
from spec2fn.transforms import jit, value_and_grad, vmap
from spec2fn.wcs.evaluate import size_of_pixel

DNU = PIXEL["DO_NOT_USE"]
SHAPE = (6, 4)
CENTRE = (10.5, 20.25)  # of the aperture, in detector pixels
SCALE = 0.11  # arcsec
TARGET = (10.0, -5.0)


class SlitWCS:
    """A WCS of square pixels, 0.11 arcsec, that begins at the aperture as the LRS's does."""

    @property
    def forward_transform(self):
        from astropy.modeling import models

        shift = models.Shift(-CENTRE[0]) & models.Shift(-CENTRE[1])
        return models.Mapping((0, 1)) | shift | models.Scale(SCALE) & models.Scale(SCALE)

    def __call__(self, x, y, with_bounding_box=True):
        u, v = ((p - c) * SCALE / 3600 for p, c in zip((x, y), CENTRE, strict=True))
        return TARGET[0] + u / np.cos(np.radians(TARGET[1] + v)), TARGET[1] + v, 7.0 + 0 * u

    def invert(self, ra, dec, wavelength, with_bounding_box=True):
        u = (ra - TARGET[0]) * np.cos(np.radians(dec)) * 3600 / SCALE
        return u + CENTRE[0], (dec - TARGET[1]) * 3600 / SCALE + CENTRE[1]


def exposure(n=None, offset=(0.0, 0.0), **attrs):
    """An exposure whose target stands `offset` pixels from the centre of the aperture."""
    rng = np.random.default_rng(0)
    dims, shape = ("y", "x"), SHAPE
    if n is not None:
        dims, shape = ("integration", *dims), (n, *SHAPE)
    names = ("sci", "err", "var_poisson", "var_rnoise")
    planes = {k: (dims, rng.uniform(1, 2, shape).astype(np.float32)) for k in names}
    wave = np.repeat(np.linspace(5.0, 10.0, 6)[:, None], 4, axis=1)
    wave[:, 0] = np.nan
    place = [c + o for c, o in zip(CENTRE, offset, strict=True)]
    ra, dec, _ = SlitWCS()(*place)
    meta = Meta(primary=fits.Header({"TARG_RA": ra, "TARG_DEC": dec}), wcs=SlitWCS())
    return xr.Dataset(
        {**planes, "dq": (dims, np.zeros(shape, np.uint32)), "wavelength": (("y", "x"), wave)},
        attrs={
            "exp_type": "MIR_LRS-FIXEDSLIT",
            "instrument": "MIRI",
            "source_type": "POINT",
            "dispaxis": 2,
            "meta": meta,
            **attrs,
        },
    )


WAVES = np.array([6.0, 8.0, 9.5], np.float32)


def surface(w, x, y):
    """Bilinear in the position, linear in the wavelength: interpolation is exact."""
    return (1 + 0.1 * w) * (1 + 0.05 * x + 0.02 * y + 0.01 * x * y)


def reference(*, flip=True):
    """5 columns, -2 to 2 pixels; 3 rows, -1 to 1."""
    y, x = np.mgrid[-1:2, -2:3]
    waves = WAVES[::-1] if flip else WAVES
    cube = surface(waves[:, None, None], x, y).astype(np.float32)
    keys = {
        "CRPIX1": 3.0,
        "CRVAL1": 0.0,
        "CDELT1": 1.0,
        "CRPIX2": 2.0,
        "CRVAL2": 0.0,
        "CDELT2": 1.0,
    }
    table = {
        "pathloss.wavelength": ("row", waves.copy()),
        "pathloss.pathloss": (("row", "j", "i"), cube),
    }
    return xr.Dataset(table, attrs={"meta": Meta(science=fits.Header(keys))})


def expected_factor(ds, x, y):
    w = ds["wavelength"].values
    with np.errstate(invalid="ignore"):
        return np.where((w > 6.0) & (w <= 9.5), surface(w, x, y), np.nan)


@pytest.mark.parametrize("n", [None, 2])
@pytest.mark.parametrize("flip", [True, False])
def test_correction_at_the_position_of_the_target(n, flip):
    ds = exposure(n, (0.7, -0.4))
    out = pathloss(ds, reference(flip=flip))
    factor = expected_factor(ds, 0.7, -0.4)
    assert np.isfinite(factor).sum() == 9
    np.testing.assert_allclose(out["sci"].values, ds["sci"].values * factor, rtol=1e-6)
    np.testing.assert_allclose(out["err"].values, ds["err"].values * factor, rtol=1e-6)
    np.testing.assert_allclose(
        out["var_rnoise"].values, ds["var_rnoise"].values * factor**2, rtol=1e-6
    )
    np.testing.assert_allclose(out["pathloss_ps"].values, factor, rtol=1e-6)
    assert out["pathloss_ps"].dims == ("y", "x")
    assert out["pathloss_ps"].dtype == np.float32
    np.testing.assert_array_equal(out["dq"].values == DNU, np.isnan(out["sci"].values))


def test_a_measured_position_precedes_the_pointing():
    ds = exposure(offset=(0.7, -0.4)).assign(
        source_xpos=((), CENTRE[0] - 1.2), source_ypos=((), CENTRE[1] + 0.3)
    )
    out = pathloss(ds, reference())
    np.testing.assert_allclose(out["pathloss_ps"].values, expected_factor(ds, -1.2, 0.3), rtol=1e-6)


def test_user_slit_loc_moves_the_source_along_the_dispersion():
    ds = exposure(offset=(0.7, -0.4))
    out = pathloss(ds, reference(), user_slit_loc=0.055)
    np.testing.assert_allclose(out["pathloss_ps"].values, expected_factor(ds, 0.7, 0.1), rtol=1e-5)


def test_user_slit_loc_outside_the_grid_is_refused():
    with pytest.raises(ParameterError, match="user_slit_loc=50 arcsec puts the source outside"):
        pathloss(exposure(), reference(), user_slit_loc=50.0)


@pytest.mark.parametrize("offset", [(2.5, 0.0), (0.0, -1.5), (0.0, 1.2)])
def test_a_source_outside_the_grid_is_taken_as_centred(offset):
    ds = exposure(offset=offset)
    out = pathloss(ds, reference())
    np.testing.assert_allclose(out["pathloss_ps"].values, expected_factor(ds, 0, 0), rtol=1e-6)


def test_inverse_undoes_the_correction():
    ds, ref = exposure(offset=(0.7, -0.4)), reference()
    back = pathloss(pathloss(ds, ref), ref, inverse=True)
    good = np.isfinite(back["sci"].values)
    assert good.sum() == 9
    for name in ("sci", "err", "var_poisson"):
        np.testing.assert_allclose(back[name].values[good], ds[name].values[good], rtol=1e-6)


@pytest.mark.parametrize(
    ("attrs", "given", "reason"),
    [
        ({}, False, "no pathloss reference for MIR_LRS-FIXEDSLIT"),
        ({"exp_type": "MIR_LRS-SLITLESS"}, True, "no pathloss correction applies to MIR_LRS-SL"),
        ({"source_type": "EXTENDED"}, True, "the source is EXTENDED, the correction is for POINT"),
    ],
)
def test_reasons_to_skip(attrs, given, reason):
    out = pathloss(exposure(**attrs), reference() if given else None)
    assert status_of(out, "pathloss").startswith(f"SKIPPED: {reason}")
    assert "pathloss_ps" not in out


def test_source_type_overrides_the_exposure():
    assert "pathloss_ps" in pathloss(
        exposure(source_type="EXTENDED"), reference(), source_type="POINT"
    )
    assert "pathloss_ps" not in pathloss(exposure(), reference(), source_type="extended")


def test_errors_name_what_is_missing():
    with pytest.raises(DatasetError, match="run assign_wcs first"):
        pathloss(exposure().drop_vars("wavelength"), reference())
    with pytest.raises(DatasetError, match="no WCS"):
        pathloss(exposure(meta=Meta()), reference())
    with pytest.raises(InputError, match="TARG_RA is missing"):
        pathloss(exposure(meta=Meta(wcs=SlitWCS())), reference())
    with pytest.raises(ReferenceError, match="CRPIX1, CRVAL1 or CDELT1"):
        pathloss(exposure(), reference().assign_attrs(meta=Meta()))
    with pytest.raises(ReferenceError, match=r"has no 'pathloss\.pathloss'"):
        pathloss(exposure(), reference().drop_vars("pathloss.pathloss"))


def test_size_of_pixel_is_that_across_the_dispersion():
    assert size_of_pixel(SlitWCS(), CENTRE, 2) == pytest.approx(SCALE, rel=1e-6)
    assert size_of_pixel(SlitWCS(), CENTRE, 1) == pytest.approx(SCALE, rel=1e-6)


def test_jit_equals_eager_and_vmap_equals_loop():
    ds, ref = exposure(3, (0.7, -0.4)), reference()
    plan = pathloss.plan(ds, ref)
    eager = pathloss(ds, ref, plan=plan)
    compiled = jit(pathloss)(ds, ref, plan=plan)
    mapped = jit(vmap(lambda d, r: pathloss(d, r, plan=plan)))(ds, ref)
    for name in ("sci", "err", "var_poisson", "dq", "pathloss_ps"):
        np.testing.assert_allclose(compiled[name].values, eager[name].values, rtol=3e-7)
    np.testing.assert_allclose(mapped["sci"].values, eager["sci"].values, rtol=3e-7)


def test_gradient_with_respect_to_the_position_and_the_reference():
    ds, ref = exposure(offset=(0.7, -0.4)), reference()
    ds["sci"].values[3, 2] = np.nan
    plan = pathloss.plan(ds, ref)
    jnp = jax.numpy

    def total(x, y, r):
        out = pathloss(ds, r, plan=dataclasses.replace(plan, x=x, y=y))
        return jnp.sum(jnp.where(out["dq"].data == 0, out["sci"].data, jnp.float32(0)))

    by_x, by_y = jax.jit(jax.grad(lambda x, y: total(x, y, ref), argnums=(0, 1)))(plan.x, plan.y)
    w = ds["wavelength"].values
    weight = np.where(np.isfinite(expected_factor(ds, 0, 0)), ds["sci"].values * (1 + 0.1 * w), 0)
    weight = np.nansum(weight)
    np.testing.assert_allclose(by_x, weight * (0.05 + 0.01 * -0.4), rtol=1e-5)
    np.testing.assert_allclose(by_y, weight * (0.02 + 0.01 * 0.7), rtol=1e-5)

    name = "pathloss.pathloss"
    value, grads = jit(value_and_grad(lambda r: total(plan.x, plan.y, r), (name,)))(ref)
    # linear in the reference
    np.testing.assert_allclose((np.asarray(grads[name]) * ref[name].values).sum(), value, rtol=1e-5)
