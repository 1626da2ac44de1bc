"""Every lowering rule against the model it replaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from astropy import units as u
from astropy.modeling import Model, fix_inputs, models
from gwcs.geometry import (
    CartesianToSpherical,
    FromDirectionCosines,
    SphericalToCartesian,
    ToDirectionCosines,
)
from stdatamodels.jwst.transforms import models as jwst

from spec2fn.errors import UnsupportedModelError
from spec2fn.kernels.namespace import array_namespace
from spec2fn.wcs.lower import evaluate_host, lower, register

RNG = np.random.default_rng(7)
TABLE = np.cumsum(RNG.uniform(0.5, 1.5, 30))


def _poly2d(degree, cls=models.Polynomial2D):
    model = cls(degree) if cls is models.Polynomial2D else cls(degree, degree + 1)
    model.parameters = RNG.normal(size=len(model.parameters))
    return model


def _poly1d(degree, cls=models.Polynomial1D, **kwargs):
    model = cls(degree, **kwargs)
    model.parameters = RNG.normal(size=degree + 1)
    return model


def _tabular(**kwargs):
    kwargs = {"bounds_error": False, "fill_value": np.nan} | kwargs
    return models.Tabular1D(points=np.linspace(-1.5, 1.5, 30), lookup_table=TABLE, **kwargs)


TAN = models.Pix2Sky_TAN() | models.RotateNative2Celestial(53.1, -27.8, 180.0)

CASES = {
    "shift": models.Shift(1.5),
    "scale": models.Scale(-2.0),
    "multiply": models.Multiply(3.0),
    "const1d": models.Const1D(4.0),
    "const2d": models.Const2D(4.0),
    "linear1d": models.Linear1D(2.0, 1.0),
    "identity": models.Identity(2),
    "mapping": models.Mapping((1, 0, 1)),
    "polynomial1d": _poly1d(4),
    "polynomial1d of degree 0": _poly1d(0),
    "polynomial1d with a domain": _poly1d(3, domain=(-2.0, 4.0)),
    "polynomial2d": _poly2d(5),
    "chebyshev1d": _poly1d(5, models.Chebyshev1D, domain=(-3.0, 2.0)),
    "legendre1d": _poly1d(5, models.Legendre1D),
    "chebyshev2d": _poly2d(3, models.Chebyshev2D),
    "legendre2d": _poly2d(3, models.Legendre2D),
    "tabular1d": _tabular(),
    "tabular1d, extrapolated": _tabular(fill_value=None),
    "tabular1d, nearest": _tabular(method="nearest"),
    "tabular1d, falling points": models.Tabular1D(
        points=np.linspace(1.5, -1.5, 30), lookup_table=TABLE, bounds_error=False, fill_value=-1.0
    ),
    "tabular1d, inverse": (_tabular() | models.Shift(1.0)).inverse,
    "tabular2d": models.Tabular2D(
        points=(np.linspace(-2, 2, 7), np.linspace(-1, 2, 9)),
        lookup_table=RNG.normal(size=(7, 9)),
        bounds_error=False,
    ),
    "affine": models.AffineTransformation2D([[1.0, 0.2], [-0.3, 0.9]], [3.0, -4.0]),
    "rotation2d": models.Rotation2D(33.0),
    "tan": TAN,
    "tan, inverse": TAN.inverse,
    "euler": models.EulerAngleRotation(10, 20, 30, "zxz"),
    "rotation sequence": models.RotationSequence3D([10.0, -20.0, 70.0, 5.0, 40.0], "zyxyz"),
    "spherical rotation sequence": models.SphericalRotationSequence([10.0, -20.0, 70.0], "zyx"),
    "spherical to cartesian": SphericalToCartesian(wrap_lon_at=180),
    "cartesian to spherical": CartesianToSpherical(wrap_lon_at=360),
    "cartesian to spherical, wrapped at 180": CartesianToSpherical(wrap_lon_at=180),
    "direction cosines": ToDirectionCosines(),
    "from direction cosines": FromDirectionCosines(),
    "sum": models.Shift(1.0) + _poly1d(2),
    "difference": models.Mapping((0,), n_inputs=2) - models.Mapping((1,), n_inputs=2),
    "product": models.Identity(1) * models.Const1D(2.5),
    "quotient": models.Identity(1) / models.Const1D(2.5),
    "power": models.Const1D(2.5) ** models.Identity(1),
    "parallel": models.Shift(1.0) & models.Scale(2.0) | _poly2d(2),
    "fixed by name": fix_inputs(_poly2d(3), {"y": 0.7}),
    "fixed by position": fix_inputs(_poly2d(3), {0: 0.7}),
    "unitless to cosines": jwst.Unitless2DirCos(),
    "cosines to unitless": jwst.DirCos2Unitless(),
    "ideal to v2v3": jwst.IdealToV2V3(4.83, -415.0, -400.0, -1),
    "v2v3 to ideal": jwst.V2V3ToIdeal(4.83, -415.0, -400.0, -1),
    "gwa rotation": jwst.Rotation3DToGWA([0.01, -0.02, 3.0], "xyz"),
    "grating wavelength": jwst.WavelengthFromGratingEquation(95400.0, -1),
    "grating angle": jwst.AngleFromGratingEquation(0.3, -1),
    "prism": jwst.RefractionIndexFromPrism(-16.5),
    "logical": jwst.Logical("GT", 0.2, 9.0),
    "logical, not equal": jwst.Logical("NE", 0.2, 7.0),
}


def coordinates(model, n=5):
    # inside the unit ball, so that direction cosines stay real
    return [np.random.default_rng(k).uniform(-0.5, 0.5, n) for k in range(model.n_inputs)]


@pytest.mark.parametrize("model", CASES.values(), ids=CASES.keys())
def test_agrees_with_astropy_on_numpy_and_jax(model):
    xyz = coordinates(model)
    expected = evaluate_host(model, *(c.copy() for c in xyz))
    expected = expected if isinstance(expected, tuple) else (expected,)
    lowered = lower(model)
    for make, kind in ((np.asarray, np.ndarray), (jnp.asarray, jax.Array)):
        result = lowered(*map(make, xyz))
        result = result if isinstance(result, tuple) else (result,)
        assert len(result) == model.n_outputs
        for ours, theirs in zip(result, expected, strict=True):
            assert isinstance(ours, kind)
            np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-14)


def test_a_compiled_chain_of_rules_agrees_with_astropy():
    model = CASES["polynomial2d"] & CASES["tabular1d"] | CASES["tan, inverse"]
    xyz = coordinates(model)
    lowered = lower(model)
    compiled = jax.jit(lowered.function)(lowered.params, *map(jnp.asarray, xyz))
    for ours, theirs in zip(compiled, evaluate_host(model, *xyz), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("model", CASES.values(), ids=CASES.keys())
def test_gradients_agree_with_finite_differences(model):
    lowered = lower(model)
    xyz = coordinates(model)
    leaves, tree = jax.tree.flatten(lowered.params)

    def total(leaves, xyz):
        out = lowered.function(jax.tree.unflatten(tree, leaves), *xyz)
        out = out if isinstance(out, tuple) else (out,)
        xp = array_namespace(*out)
        return sum(xp.nansum(xp.sin(o)) for o in out)

    flat = [jnp.asarray(leaf) for leaf in leaves]
    by_leaf, by_coordinate = jax.grad(total, argnums=(0, 1))(flat, [jnp.asarray(c) for c in xyz])
    step = 1e-6
    for k, (value, slope) in enumerate(zip(leaves, by_leaf, strict=True)):
        if getattr(model, "method", "") == "nearest":
            continue  # does not depend on where the points are
        direction = np.random.default_rng(k).normal(size=value.shape)
        up, down = list(leaves), list(leaves)
        up[k], down[k] = value + step * direction, value - step * direction
        numeric = (total(up, xyz) - total(down, xyz)) / (2 * step)
        np.testing.assert_allclose(jnp.sum(slope * direction), numeric, rtol=1e-5, atol=1e-7)
    assert all(np.all(np.isfinite(slope)) for slope in by_coordinate)


def test_tables_are_filled_outside_and_keep_nan():
    model = _tabular()
    np.testing.assert_array_equal(
        np.isnan(lower(model)([-1.6, -1.5, 0.0, 1.5, 1.6, np.nan])), [1, 0, 0, 0, 1, 1]
    )
    assert lower(model)(1.5) == TABLE[-1]
    filled = lower(_tabular(fill_value=-9.0))([-7.0, np.nan])
    assert filled[0] == -9.0
    assert np.isnan(filled[1])


def test_a_strict_table_raises_on_the_host_and_fills_in_a_trace():
    strict = lower(_tabular(bounds_error=True))
    with pytest.raises(ValueError, match="leaves the table"):
        strict(2.0)
    assert np.isnan(strict(jnp.asarray(2.0)))


def test_the_poles_have_longitude_zero_and_finite_gradients():
    lowered = lower(CartesianToSpherical())
    lon, lat = lowered(0.0, 0.0, -2.0)
    assert (lon, lat) == (0.0, -90.0)
    slopes = jax.grad(lambda x, y, z: sum(lowered(x, y, z)), argnums=(0, 1, 2))(0.0, 0.0, 1.0)
    assert np.all(np.isfinite(slopes))


class Cube(Model):
    """A model without rule."""

    n_inputs = n_outputs = 1

    @staticmethod
    def evaluate(x):
        return x**3


def test_a_model_without_rule_is_named_and_can_be_given_one():
    model = models.Shift(1.0) | Cube()
    with pytest.raises(UnsupportedModelError, match=r"Cube; add one with .*register"):
        lower(model)
    assert evaluate_host(model, 1.0) == 8.0

    @register(Cube)
    def _cube(model):
        return lambda xp, params, x: (x**3,), {}

    assert lower(model)(1.0) == 8.0


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (models.Shift(1.0 * u.arcsec), "unit arcsec"),
        (models.Shift([1.0, 2.0], n_models=2), "2 parameter sets"),
        (jwst.Logical("GT", np.zeros(3), np.ones(3)), "array"),
        (
            models.Tabular2D(lookup_table=np.eye(3), method="nearest"),
            "no lowering rule",
        ),
    ],
)
def test_what_cannot_be_lowered_says_so(model, why):
    with pytest.raises(UnsupportedModelError, match=why):
        lower(model)


def test_the_wrong_number_of_coordinates_is_an_error():
    with pytest.raises(TypeError, match="takes 2 coordinates, got 1"):
        lower(models.Identity(2))(1.0)
