"""The leak of 6 um into 12 um, on spectra with known leak, and against the official step."""

import numpy as np
import pytest
import xarray as xr

import spec2fn
from spec2fn.errors import DatasetError, InputError, ReferenceError

WAVE_1B, WAVE_3A = np.linspace(5.66, 6.63, 800), np.linspace(11.55, 13.47, 600)


def spectrum(wave, flux, srctype="POINT"):
    columns = {"flux": flux, "rf_flux": 1.01 * flux, "flux_error": 0.01 * flux}
    return xr.Dataset(
        {
            **{n: (("spectrum", "wave"), v[None], {"units": "Jy"}) for n, v in columns.items()},
            "wavelength": (("spectrum", "wave"), wave[None], {"units": "um"}),
            "srctype": ("spectrum", [srctype]),
        }
    )


def reference():
    wave = np.linspace(11.5, 13.5, 201)
    share = 0.03 * np.exp(-0.5 * ((wave - 12.2) / 0.15) ** 2)
    columns = {"wavelength": wave, "frac_leak": share, "err_leak": 0.1 * share}
    return xr.Dataset(
        {f"leakcor.{n}": ("leakcor_row", v.astype(np.float32)) for n, v in columns.items()}
    )


def blue(wave):
    return 2.0 + np.sin(9 * wave)


def case():
    truth = 0.5 + 0.1 * WAVE_3A / 12
    table = reference()
    share = np.interp(WAVE_3A, *(table[f"leakcor.{n}"].values for n in ("wavelength", "frac_leak")))
    leak = share * np.interp(WAVE_3A, 2 * WAVE_1B, blue(WAVE_1B))
    return spectrum(WAVE_1B, blue(WAVE_1B)), spectrum(WAVE_3A, truth + leak), truth, table


def test_the_leak_is_subtracted():
    short, long, truth, table = case()
    before = long.copy(deep=True)
    out = spec2fn.spectral_leak(short, long, table)
    np.testing.assert_allclose(out["flux"].values[0], truth, rtol=1e-9)
    np.testing.assert_allclose(out["rf_flux"].values[0], 1.01 * truth, rtol=1e-9)
    np.testing.assert_array_equal(out["flux_error"], long["flux_error"])
    assert out.attrs["status_spectral_leak"] == "COMPLETE"
    assert out["flux"].attrs == {"units": "Jy"}
    xr.testing.assert_identical(long, before)
    only = spec2fn.spectral_leak(short.drop_vars("rf_flux"), long, table)
    np.testing.assert_array_equal(only["rf_flux"], long["rf_flux"])


def test_extended_sources_are_left_alone():
    short, long, _, table = case()
    for spectra in ((short.assign(srctype=("spectrum", ["EXTENDED"])), long),):
        out = spec2fn.spectral_leak(*spectra, table)
        assert out.attrs["status_spectral_leak"] == "SKIPPED: the source is extended"
        np.testing.assert_array_equal(out["flux"], long["flux"])


def test_what_is_wrong_is_named():
    short, long, _, table = case()
    with pytest.raises(InputError, match=r"band 1B, which holds 6 um, found 11\.55 to 13\.47 um"):
        spec2fn.spectral_leak(long, short, table)
    with pytest.raises(DatasetError, match="spectral_leak: needs variable 'flux'"):
        spec2fn.spectral_leak(short, long.drop_vars("flux"), table)
    with pytest.raises(InputError, match="one spectrum of band 3A, found 2"):
        spec2fn.spectral_leak(short, xr.concat([long, long], "spectrum"), table)
    with pytest.raises(ReferenceError, match=r"has no 'leakcor\.frac_leak'"):
        spec2fn.spectral_leak(short, long, table.drop_vars("leakcor.frac_leak"))


def test_gradient():
    jax = pytest.importorskip("jax")
    short, long, _, table = case()

    def total(flux):
        return spec2fn.spectral_leak(short.assign(flux=short["flux"].copy(data=flux)), long, table)[
            "flux"
        ].data.sum()

    flux = jax.numpy.asarray(short["flux"].data)
    gradient = jax.grad(total)(flux)
    step = np.zeros(flux.shape)
    step[0, 300] = 1e-3
    difference = (total(flux + step) - total(flux - step)) / 2e-3
    assert float(gradient[0, 300]) == pytest.approx(float(difference), rel=1e-6)
    assert float(gradient.sum()) < 0


def test_parity(tmp_path):
    peer = pytest.importorskip("jwst.spectral_leak.spectral_leak")
    from stdatamodels.jwst import datamodels

    short, long, _, table = case()
    path = tmp_path / "mrsptcorr.fits"
    with datamodels.MirMrsPtCorrModel() as model:
        columns = [table[f"leakcor.{n}"].values for n in ("wavelength", "frac_leak", "err_leak")]
        dtype = model.get_dtype("leakcor_table")
        model.leakcor_table = np.array(list(zip(*columns, strict=True)), dtype=dtype)
        model.save(path)
    models = []
    for ds in (short, long):
        one = datamodels.MRSSpecModel()
        rows = np.zeros(ds.sizes["wave"], dtype=one.get_dtype("spec_table"))
        for name in ("wavelength", "flux", "rf_flux"):
            rows[name.upper()] = ds[name].values[0]
        one.spec_table = rows
        models.append(datamodels.MRSMultiSpecModel())
        models[-1].spec.append(one)
    expected = peer.do_correction(str(path), *models)
    out = spec2fn.spectral_leak(short, long, spec2fn.open_reference(path))
    for name, values in zip(("flux", "rf_flux"), expected, strict=True):
        np.testing.assert_allclose(out[name].values[0], values, rtol=1e-7)
