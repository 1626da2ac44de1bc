import jax
import jax.numpy as jnp
import numpy as np

from spec2fn.kernels import scaling

DNU = 1


def planes(shape=(2, 3, 4), seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.uniform(1, 2, shape).astype(np.float32) for n in ("sci", "err", "var")}


def test_agree_on_invalid_spreads_nan_and_flags_both_ways():
    p = planes()
    dq = np.zeros((2, 3, 4), np.uint32)
    p["err"][0, 0, 0] = np.nan
    dq[1, 2, 3] = DNU | 4
    dq[0, 1, 1] = 4
    out, flags = scaling.agree_on_invalid(p, dq, DNU)
    for plane in out.values():
        np.testing.assert_array_equal(np.isnan(plane), (flags & DNU) != 0)
        assert plane.dtype == np.float32
    assert np.isnan(out["sci"]).sum() == 2
    assert flags[0, 0, 0] == DNU
    assert flags[1, 2, 3] == DNU | 4
    assert flags[0, 1, 1] == 4
    again, flags2 = scaling.agree_on_invalid(out, flags, DNU)
    np.testing.assert_array_equal(flags, flags2)
    np.testing.assert_array_equal(again["sci"], out["sci"])


def test_rescale_multiplies_values_and_squares_for_variances():
    p = planes()
    dq = np.zeros((2, 3, 4), np.uint32)
    factor = np.full((3, 4), 3.0)
    factor[0, 0] = np.nan
    usable = np.isfinite(factor)
    out, flags = scaling.rescale(
        {"sci": p["sci"], "err": p["err"]}, {"var": p["var"]}, dq, factor, usable, do_not_use=DNU
    )
    good = np.broadcast_to(usable, dq.shape)
    np.testing.assert_allclose(out["sci"][good], 3 * p["sci"][good], rtol=1e-6)
    np.testing.assert_allclose(out["var"][good], 9 * p["var"][good], rtol=1e-6)
    np.testing.assert_array_equal(flags, np.where(good, 0, DNU))
    assert np.isnan(out["var"][:, 0, 0]).all()
    assert {v.dtype for v in out.values()} == {np.dtype("float32")}


def test_rescale_inverse_undoes_rescale():
    p = planes()
    dq = np.zeros((2, 3, 4), np.uint32)
    factor = np.random.default_rng(1).uniform(0.5, 5, (3, 4))
    args = (factor, np.ones((3, 4), bool))
    there, flags = scaling.rescale({"sci": p["sci"]}, {"v": p["var"]}, dq, *args, do_not_use=DNU)
    back, _ = scaling.rescale(
        {"sci": there["sci"]}, {"v": there["v"]}, flags, *args, do_not_use=DNU, inverse=True
    )
    np.testing.assert_allclose(back["sci"], p["sci"], rtol=1e-6)
    np.testing.assert_allclose(back["v"], p["var"], rtol=1e-6)


def test_gradient_of_rescale_is_finite_at_masked_pixels():
    p = planes((3, 4))
    p["sci"][0, 0] = np.nan
    p["sci"][0, 1] = np.inf
    dq = np.zeros((3, 4), np.uint32)
    dq[0, 1] = DNU
    factor = np.ones((3, 4))
    factor[1, 1] = np.nan
    usable = np.isfinite(factor)

    def total(sci, factor):
        out, flags = scaling.rescale(
            {"sci": sci}, {}, jnp.asarray(dq), factor, jnp.asarray(usable), do_not_use=DNU
        )
        return jnp.sum(jnp.where(flags == 0, out["sci"], jnp.float32(0)))

    by_sci, by_factor = jax.jit(jax.grad(total, argnums=(0, 1)))(
        jnp.asarray(p["sci"]), jnp.asarray(factor)
    )
    masked = ~np.isfinite(p["sci"]) | ~usable
    assert np.isfinite(by_sci).all()
    assert np.isfinite(by_factor).all()
    assert (np.asarray(by_factor)[masked] == 0).all()
    np.testing.assert_allclose(by_factor[~masked], p["sci"][~masked], rtol=1e-6)


def flat_inputs(shape=(3, 4), seed=2):
    rng = np.random.default_rng(seed)
    sci, vp, vr = (rng.uniform(1, 2, shape).astype(np.float32) for _ in range(3))
    flat = rng.uniform(0.8, 1.2, shape[-2:]).astype(np.float32)
    err = rng.uniform(0.01, 0.02, shape[-2:]).astype(np.float32)
    dq = np.zeros(shape, np.uint32)
    return sci, vp, vr, dq, flat, err, np.zeros(shape[-2:], np.uint32)


def apply_flat(sci, vp, vr, dq, flat, err, flags, *, inverse=False):
    return scaling.rescale(
        {"sci": sci},
        {"var_poisson": vp, "var_rnoise": vr},
        dq,
        flat,
        None,
        do_not_use=DNU,
        inverse=not inverse,
        error=err,
        flags=flags,
    )


def test_flat_field_propagates_every_variance():
    sci, vp, vr, dq, flat, err, flags = flat_inputs((2, 3, 4))
    out, _ = apply_flat(sci, vp, vr, dq, flat, err, flags)
    f = flat.astype(float)
    np.testing.assert_allclose(out["sci"], sci / f, rtol=1e-6)
    np.testing.assert_allclose(out["var_poisson"], vp / f**2, rtol=1e-6)
    np.testing.assert_allclose(out["var_flat"], (sci / f) ** 2 * (err / f) ** 2, rtol=1e-5)
    total = (vp + vr) / f**2 + (sci / f) ** 2 * (err / f) ** 2
    np.testing.assert_allclose(out["err"], np.sqrt(total), rtol=1e-6)


def test_flat_field_inverse_has_no_flat_variance():
    sci, vp, vr, dq, flat, err, flags = flat_inputs()
    out, _ = apply_flat(sci, vp, vr, dq, flat, err, flags, inverse=True)
    np.testing.assert_allclose(out["sci"], sci * flat, rtol=1e-6)
    assert (out["var_flat"] == 0).all()
    np.testing.assert_allclose(out["err"], np.sqrt(vp + vr) * flat, rtol=1e-5)


def test_flat_field_of_masked_pixels():
    sci, vp, vr, dq, flat, err, flags = flat_inputs()
    flat[0, 0], flags[0, 0] = 0.0, DNU
    flat[0, 1], flags[0, 1] = np.nan, DNU
    flags[0, 2] = 1 << 25
    err[0, 3] = np.nan
    out, dq_out = apply_flat(sci, vp, vr, dq, flat, err, flags)
    np.testing.assert_array_equal(np.isnan(out["sci"][0]), [True, True, False, True])
    np.testing.assert_array_equal(dq_out[0], [DNU, DNU, 1 << 25, DNU])
    for plane in out.values():
        np.testing.assert_array_equal(np.isnan(plane), (dq_out & DNU) != 0)


def test_gradient_of_flat_field_is_finite_at_masked_pixels_and_zero_variance():
    sci, vp, vr, dq, flat, err, flags = flat_inputs()
    flat[0, 0], flags[0, 0] = 0.0, DNU
    sci[0, 1] = np.nan
    vp[1, 1] = vr[1, 1] = err[1, 1] = 0

    def total(sci, vp, flat):
        out, good = apply_flat(sci, vp, vr, jnp.asarray(dq), flat, err, jnp.asarray(flags))
        return sum(jnp.sum(jnp.where(good == 0, p, jnp.float32(0))) for p in out.values())

    for g in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*map(jnp.asarray, (sci, vp, flat))):
        assert np.isfinite(g).all()


def test_kernels_agree_between_numpy_and_jit():
    sci, vp, vr, dq, flat, err, flags = flat_inputs((2, 3, 4))
    flags[1, 1] = DNU
    plain, dq_plain = apply_flat(sci, vp, vr, dq, flat, err, flags)
    fast, dq_fast = jax.jit(apply_flat)(*map(jnp.asarray, (sci, vp, vr, dq, flat, err, flags)))
    np.testing.assert_array_equal(dq_plain, dq_fast)
    for name, plane in plain.items():
        assert isinstance(plane, np.ndarray)
        np.testing.assert_allclose(plane, fast[name], rtol=1e-6)
