import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from spec2fn.cubes import Cubes
from spec2fn.dq import PIXEL
from spec2fn.errors import InputError, ParameterError
from spec2fn.io import open_product, save
from spec2fn.kernels import cubes as kernel
from spec2fn.schema import Meta, meta_of, status_of, with_meta
from spec2fn.steps.cube_build import cube_build

RA, DEC = 30.0, 40.0
ROWS, WIDTH, SLICES = 40, 12, 6  # of one channel: pixels along the dispersion, per slice
ALONG, ACROSS, STEP, START = 0.1, 0.2, 0.01, 5.0  # arcsec, arcsec, um, um
BAD = PIXEL["DO_NOT_USE"]


def label_map():
    """Slices side by side, with gaps; channel 1 on the left, channel 2 on the right."""
    out = np.zeros((ROWS, 1032), np.int32)
    for channel, left in ((1, 3), (2, 600)):
        for s in range(SLICES):
            x = left + s * (WIDTH + 2)
            out[:, x : x + WIDTH] = channel * 100 + s + 1
    return out


def wcs_of(labels):
    from astropy import coordinates, units
    from astropy.modeling.models import (
        Const1D,
        Identity,
        Mapping,
        Pix2Sky_TAN,
        RotateNative2Celestial,
        Scale,
        Shift,
    )
    from gwcs import WCS
    from gwcs import coordinate_frames as cf
    from gwcs.selector import LabelMapperArray, RegionsSelector

    transforms = {}
    for label in np.unique(labels[labels > 0]):
        x = np.flatnonzero((labels == label).any(axis=0))
        beta = (label % 100 - 1 - (SLICES - 1) / 2) * ACROSS
        start = START + (label // 100 - 1) * ROWS * STEP
        along = Shift(-float(x.mean())) | Scale(ALONG)
        transforms[int(label)] = Mapping((0, 0, 1)) | along & Const1D(beta) & (
            Scale(STEP) | Shift(start)
        )
    select = RegionsSelector(
        ("x", "y"), ("a", "b", "l"), label_mapper=LabelMapperArray(labels), selector=transforms
    )
    to_sky = Scale(1 / 3600) & Scale(1 / 3600) | Pix2Sky_TAN()
    to_sky = to_sky | RotateNative2Celestial(RA, DEC, 180)
    wave = {"unit": (units.um,), "axes_names": ("wavelength",)}
    sky = cf.CelestialFrame(reference_frame=coordinates.ICRS(), axes_order=(0, 1), name="sky")
    spectral = cf.SpectralFrame(axes_order=(2,), name="spectral", **wave)
    plane = cf.Frame2D(name="slices", axes_order=(0, 1))
    frames = [
        cf.Frame2D(name="detector", axes_order=(0, 1)),
        cf.CompositeFrame([plane, spectral], name="alpha_beta"),
        cf.CompositeFrame([sky, spectral], name="world"),
    ]
    return WCS([(frames[0], select), (frames[1], to_sky & Identity(1)), (frames[2], None)])


def cubepar():
    bands = [("1", 0.1), ("2", 0.2)]
    data = {
        "cubepar.channel": [b for b, _ in bands],
        "cubepar.band": ["SHORT"] * 2,
        "cubepar.spaxelsize": np.array([s for _, s in bands], np.float32),
        "cubepar.spectralstep": np.full(2, STEP, np.float32),
        "cubepar.wavemin": np.array([5.0, 5.4], np.float32),
        "cubepar.wavemax": np.array([5.4, 5.8], np.float32),
        "multichannel_driz.wavelength": np.arange(4.8, 6.0, STEP).astype(np.float32),
    }
    for kind, extra in (("msm", ("power", "softrad")), ("emsm", ("scalerad",))):
        table = f"cubepar_{kind}"
        data |= {f"{table}.channel": ["1", "2"], f"{table}.band": ["SHORT"] * 2}
        data |= {f"{table}.roispatial": np.full(2, 0.3, np.float32)}
        data |= {f"{table}.roispectral": np.full(2, 0.02, np.float32)}
        values = {"power": 2.0, "softrad": 0.01, "scalerad": 0.1}
        data |= {f"{table}.{k}": np.full(2, values[k], np.float32) for k in extra}
        wave = data["multichannel_driz.wavelength"]
        columns = ("roispatial", "roispectral", *extra)
        each = {"roispatial": 0.3, "roispectral": 0.02, **values}
        data |= {f"multichannel_{kind}.wavelength": wave}
        data |= {f"multichannel_{kind}.{c}": np.full(wave.size, each[c]) for c in columns}
    dims = {k: f"{k.split('.', maxsplit=1)[0]}_row" for k in data}
    return xr.Dataset({k: (dims[k], np.asarray(v)) for k, v in data.items()})


@pytest.fixture(scope="module")
def reference():
    return cubepar()


@pytest.fixture(scope="module")
def base():
    labels = label_map()
    wcs = wcs_of(labels)
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(float)
    inside = labels > 0
    planes = {n: np.full(labels.shape, np.nan) for n in ("alpha", "beta", "wavelength")}
    for plane, values in zip(
        planes.values(), wcs.get_transform("detector", "alpha_beta")(x, y), strict=True
    ):
        plane[inside] = values[inside]
    sky = wcs.get_transform("alpha_beta", "world")(*(p[inside] for p in planes.values()))
    for name, values in zip(("ra", "dec"), sky, strict=False):
        planes[name] = np.full(labels.shape, np.nan)
        planes[name][inside] = values
    primary = fits.Header({"EXP_TYPE": "MIR_MRS", "CHANNEL": "12", "BAND": "SHORT"})
    primary.update({"INSTRUME": "MIRI", "TELESCOP": "JWST"})
    science = fits.Header({"CRPIX1": 512.5, "V2_REF": -500.0, "MJD-BEG": 60000.0})
    sci = np.where(inside, 3.0, np.nan).astype(np.float32)
    attrs = {"exp_type": "MIR_MRS", "instrument": "MIRI", "channel": "12", "band": "SHORT"}
    data = {
        "sci": (("y", "x"), sci, {"units": "MJy/sr"}),
        "err": (("y", "x"), np.where(inside, 0.5, np.nan).astype(np.float32)),
        "dq": (("y", "x"), np.where(inside, 0, BAD).astype(np.uint32)),
        "slice_id": (("y", "x"), labels),
        **{n: (("y", "x"), p) for n, p in planes.items()},
    }
    meta = Meta(primary, science, "foo_cal.fits", wcs)
    return xr.Dataset(data, attrs={**attrs, "meta": meta})


def star(base, x0=0.07, y0=-0.11, sigma=0.15):
    """Surface brightness of a Gaussian star of flux 1 in every pixel, averaged over the pixel."""
    from scipy.special import erf

    def share(at, size, centre):
        ends = ((at + s * size / 2 - centre) / (np.sqrt(2) * sigma) for s in (1, -1))
        high, low = (erf(e) for e in ends)
        return (high - low) / 2 / size

    alpha, beta = base["alpha"].values, base["beta"].values
    return (share(alpha, ALONG, x0) * share(beta, ACROSS, y0)).astype(np.float32)


def test_a_uniform_field_stays_uniform(base, reference):
    cube = cube_build(base, reference, channel="1")
    assert cube["sci"].dims == ("wave", "y", "x")
    good = np.isfinite(cube["sci"].values)
    np.testing.assert_allclose(cube["sci"].values[good], 3.0, rtol=1e-5)
    np.testing.assert_array_equal(good, np.isfinite(cube["err"].values))
    np.testing.assert_array_equal(good, cube["dq"].values == 0)
    np.testing.assert_array_equal(good, cube["wmap"].values > 0)
    # the field is 1.2 by 1.2 arcsec
    per_plane = good.sum(axis=(1, 2))
    assert np.median(per_plane) * 0.01 == pytest.approx(1.44, rel=0.25)


def test_flux_of_a_star_is_conserved(base, reference):
    # what shines into the outermost slices would be spread over spaxels that lie half outside
    ds = base.assign(sci=(("y", "x"), star(base, sigma=0.1)))
    cube = cube_build(ds, reference, channel="1")
    flux = np.nansum(cube["sci"].values, axis=(1, 2)) * cube["pixar_a2"].item()
    np.testing.assert_allclose(flux[3:-3], 1.0, rtol=5e-3)


@pytest.mark.parametrize("name", ["emsm", "msm"])
def test_weights_by_distance(base, reference, name):
    uniform = cube_build(base, reference, channel="1", weighting=name)
    good = np.isfinite(uniform["sci"].values)
    np.testing.assert_allclose(uniform["sci"].values[good], 3.0, rtol=1e-5)
    assert uniform.attrs["cube_weighting"] == name
    assert meta_of(uniform).get("WTYPE") == name
    assert meta_of(uniform).get("ROIS") == pytest.approx(0.45 if name == "msm" else 0.3)
    ds = base.assign(sci=(("y", "x"), star(base)))
    image = np.nanmean(cube_build(ds, reference, channel="1", weighting=name)["sci"], axis=0)
    drizzled = np.nanmean(cube_build(ds, reference, channel="1")["sci"], axis=0)
    both = np.isfinite(image) & np.isfinite(drizzled)
    assert np.corrcoef(image[both], drizzled[both])[0, 1] > 0.9


def test_weights_conserve_area(base, reference):
    op = cube_build.plan(base, reference, channel="1").parts[0].operator
    inner = np.isin(op.pixels, np.flatnonzero(base["slice_id"].values.ravel() % 100 > 0))
    total = kernel.apply_adjoint(op, np.ones(op.voxels.size, np.float32))
    # the ends of the wavelength range cut pixels off
    rows = op.pixels // 1032
    inner &= (rows > 2) & (rows < ROWS - 3)
    area = 0.9998 * ALONG * ACROSS / 0.1**2 * 0.9998 * STEP
    np.testing.assert_allclose(total[inner], area, rtol=1e-6)


def place_of_the_star(cube):
    """Right ascension and declination of the centre of light."""
    image = np.nanmean(cube["sci"].values[5:-5], axis=0)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    found = [float((np.nan_to_num(image) * v).sum() / np.nansum(image)) for v in (x, y)]
    return meta_of(cube).wcs(*found, 0)[:2]


def test_position_of_a_star(base, reference):
    ds = base.assign(sci=(("y", "x"), star(base)))
    ra, dec = place_of_the_star(cube_build(ds, reference, channel="1"))
    world = meta_of(base).wcs.get_transform("alpha_beta", "world")(0.07, -0.11, 5.2)
    assert ra == pytest.approx(world[0], abs=0.01 / 3600)
    assert dec == pytest.approx(world[1], abs=0.01 / 3600)


def offsets(path, **changes):
    import asdf

    tree = {
        "filename": ["bar.fits", "foo_cal.fits"],
        "raoffset": [9.0, 0.6],
        "decoffset": [9, -0.4],
    }
    tree = {k: v for k, v in {**tree, **changes}.items() if v is not None}
    asdf.AsdfFile(tree).write_to(path)
    return str(path)


def test_an_offset_file_moves_the_exposure(base, reference, tmp_path):
    ds = base.assign(sci=(("y", "x"), star(base)))
    old = cube_build(ds, reference, channel="1")
    new = cube_build(ds, reference, channel="1", offset_file=offsets(tmp_path / "offsets.asdf"))
    (ra0, dec0), (ra1, dec1) = place_of_the_star(old), place_of_the_star(new)
    # to the east by an angle on the sky
    assert (ra1 - ra0) * np.cos(np.deg2rad(dec0)) * 3600 == pytest.approx(0.6, abs=1e-3)
    assert (dec1 - dec0) * 3600 == pytest.approx(-0.4, abs=1e-3)
    for cube in (old, new):
        flux = np.nansum(cube["sci"].values[5:-5], axis=(1, 2)) * cube["pixar_a2"].item()
        np.testing.assert_allclose(flux, flux.mean(), rtol=1e-3)


def test_an_offset_moves_the_field_whatever_the_header_says_of_it(base, reference, tmp_path):
    file = offsets(tmp_path / "offsets.asdf", raoffset=[9.0, 3.0])
    science = fits.Header({"S_REGION": cube_build(base, reference, channel="2").attrs["s_region"]})
    there = with_meta(base, science=science)
    stays = cube_build(there, reference, channel="2")
    moved, true = (cube_build(ds, reference, channel="2", offset_file=file) for ds in (there, base))
    assert moved.attrs["s_region"] == true.attrs["s_region"] != stays.attrs["s_region"]
    assert np.isfinite(moved["sci"]).sum() == np.isfinite(true["sci"]).sum()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"filename": ["a.fits", "b.fits"]}, "no entry for foo_cal.fits; add one"),
        ({"decoffset": None}, "it needs lists filename, raoffset and decoffset"),
        ({"raoffset": [1.0]}, "2 filename, 1 raoffset, 2 decoffset; it needs as many of each"),
    ],
)
def test_an_unfit_offset_file_is_refused(base, reference, tmp_path, changes, text):
    path = offsets(tmp_path / "offsets.asdf", **changes)
    with pytest.raises(InputError, match=text):
        cube_build(base, reference, channel="1", offset_file=path)


def test_a_missing_offset_file_is_named(base, reference, tmp_path):
    with pytest.raises(InputError, match=r"none\.asdf.* cannot be used"):
        cube_build(base, reference, channel="1", offset_file=str(tmp_path / "none.asdf"))


@pytest.mark.parametrize("weighting", ["drizzle", "emsm", "msm"])
@pytest.mark.parametrize("away", [{"ra_center": 30.01, "nspax_x": 5}, {"wavelengths": (9.0, 9.1)}])
def test_a_cube_that_no_pixel_reaches_is_refused(base, reference, weighting, away):
    with pytest.raises(ParameterError, match="no pixel of the exposure reaches the cube ch2-short"):
        cube_build(base, reference, channel="2", weighting=weighting, **away)


def test_wavelength_of_a_line(base, reference):
    line = np.exp(-0.5 * ((base["wavelength"].values - 5.21) / 0.03) ** 2).astype(np.float32)
    cube = cube_build(base.assign(sci=(("y", "x"), line)), reference, channel="1")
    spectrum = np.nanmean(cube["sci"].values, axis=(1, 2))
    wave = cube["wavelength"].values
    good = np.isfinite(spectrum)
    assert (spectrum * wave)[good].sum() / spectrum[good].sum() == pytest.approx(5.21, abs=1e-3)


def test_error_is_that_of_independent_pixels(base, reference):
    rng = np.random.default_rng(1)
    plan = cube_build.plan(base, reference, channel="1")
    trials = 200
    noise = rng.normal(0, 0.5, (trials, *base["sci"].shape)).astype(np.float32)
    many = base.drop_vars(["sci", "err", "dq"]).assign(
        sci=(("integration", "y", "x"), noise),
        err=(("integration", "y", "x"), np.full_like(noise, 0.5)),
        dq=(("integration", "y", "x"), np.zeros(noise.shape, np.uint32)),
    )
    cube = cube_build(many, reference, plan=plan, channel="1")
    assert cube["sci"].dims == ("integration", "wave", "y", "x")
    sci, err = cube["sci"].values, cube["err"].values[0]
    ratio = sci.std(axis=0) / err
    assert np.nanmedian(ratio) == pytest.approx(1.0, abs=0.02)
    # a sum over a plane scatters more than its voxels say
    plane = np.nansum(sci[:, 20], axis=(1, 2)).std() ** 2 / np.nansum(err[20] ** 2)
    said = 1 + np.nansum(cube["covariance_sum"].values[0, 20]) / np.nansum(err[20] ** 2)
    assert said > 1.5
    assert plane == pytest.approx(said, rel=0.35)


def test_integrations_are_independent(base, reference):
    two = base.drop_vars(["sci", "err", "dq"]).assign(
        {
            n: (
                ("integration", "y", "x"),
                np.stack([base[n].values, base[n].values * f]).astype(base[n].dtype),
                base[n].attrs,
            )
            for n, f in (("sci", 2), ("err", 2), ("dq", 1))
        }
    )
    both = cube_build(two, reference, channel="1")
    one = cube_build(base, reference, channel="1")
    np.testing.assert_array_equal(both["sci"].values[0], one["sci"].values)
    np.testing.assert_allclose(both["sci"].values[1], 2 * one["sci"].values, rtol=1e-6)
    np.testing.assert_allclose(both["err"].values[1], 2 * one["err"].values, rtol=1e-6)


def test_a_bad_pixel_of_any_value_changes_nothing(base, reference):
    dq = base["dq"].values.copy()
    dq[10:12, 20:24] |= BAD
    values = base["sci"].values.copy()
    cubes = []
    for bad in (np.nan, 1e30):
        values[10:12, 20:24] = bad
        ds = base.assign(sci=(("y", "x"), values.copy()), dq=(("y", "x"), dq))
        cubes.append(cube_build(ds, reference, channel="1"))
    for name in ("sci", "err", "dq", "wmap"):
        np.testing.assert_array_equal(cubes[0][name].values, cubes[1][name].values)


def test_holes_are_flagged_on_request(base, reference):
    dq = base["dq"].values.copy()
    slices = base["slice_id"].values
    dq[:, :] = np.where((slices == 103) | (slices == 104), BAD, dq)
    ds = base.assign(dq=(("y", "x"), dq))
    plain = cube_build(ds, reference, channel="1")["dq"].values
    flagged = cube_build(ds, reference, channel="1", skip_dqflagging=False)["dq"].values
    outside = PIXEL["DO_NOT_USE"] | PIXEL["NON_SCIENCE"]
    assert set(np.unique(plain)) == {0, outside}
    holes = flagged == BAD
    assert holes.any()
    assert (plain[holes] == outside).all()
    middle = flagged.shape[1] // 2
    assert holes[20, middle, flagged.shape[2] // 2]
    np.testing.assert_array_equal(flagged[~holes], plain[~holes])


def test_one_cube_of_both_channels(base, reference):
    cube = cube_build(base, reference, output_type="multi")
    assert isinstance(cube, xr.Dataset)
    assert cube.attrs["cube_names"] == "ch1-short,ch2-short"
    assert cube.attrs["channel"] == "12"
    assert meta_of(cube).get("CTYPE3") == "WAVE-TAB"
    assert meta_of(cube).get("V2_REF") is None
    good = np.isfinite(cube["sci"].values).any(axis=(1, 2))
    wave = cube["wavelength"].values[good]
    assert wave.min() == pytest.approx(5.0, abs=0.02)
    assert wave.max() == pytest.approx(5.8, abs=0.02)


def test_a_cube_for_each_band(base, reference):
    cubes = cube_build(base, reference)
    assert isinstance(cubes, Cubes)
    assert cubes.names == ("ch1-short", "ch2-short")
    assert status_of(cubes["ch2-short"], "cube_build") == "COMPLETE"
    assert cubes["ch1-short"].attrs["channel"] == "1"
    assert meta_of(cubes["ch2-short"]).get("CDELT1") * 3600 == pytest.approx(0.2)
    assert cubes["ch2-short"]["wavelength"].values[0] == pytest.approx(5.405, abs=1e-6)


def test_size_and_place_are_those_asked_for(base, reference):
    cube = cube_build(
        base,
        reference,
        channel="1",
        scalexy=0.05,
        scalew=0.02,
        nspax_x=10,
        nspax_y=7,
        ra_center=30.0,
        dec_center=40.0,
        wavemin=5.1,
        wavemax=5.29,
    )
    assert cube["sci"].shape == (10, 7, 11)
    header = meta_of(cube)
    assert (header.get("CRVAL1"), header.get("CRVAL2")) == (30.0, 40.0)
    assert header.get("CDELT1") == pytest.approx(0.05 / 3600)
    np.testing.assert_allclose(np.diff(cube["wavelength"]), 0.02)


def test_wavelengths_of_ones_own(base, reference):
    own = (5.05, 5.06, 5.08, 5.12, 5.2, 5.3)
    line = base.assign(sci=(("y", "x"), base["wavelength"].values.astype(np.float32)))
    cube = cube_build(line, reference, channel="1", wavelengths=own)
    np.testing.assert_array_equal(cube["wavelength"], own)
    edges = [5.045, 5.055, 5.07, 5.1, 5.16, 5.25, 5.35]
    found = np.nanmean(cube["sci"].values, axis=(1, 2))
    np.testing.assert_allclose(found, np.convolve(edges, [0.5, 0.5], "valid"), atol=1e-3)
    assert meta_of(cube).wcs(0, 0, 4)[2] == pytest.approx(5.2)


def test_a_turned_cube_shows_the_same_sky(base, reference):
    ds = base.assign(sci=(("y", "x"), star(base)))
    for options in ({"cube_pa": 35.0}, {"coord_system": "ifualign"}):
        cube = cube_build(ds, reference, channel="1", **options)
        image = np.nan_to_num(np.nanmean(cube["sci"].values[5:-5], axis=0))
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        centre = [(image * v).sum() / image.sum() for v in (x, y)]
        ra, dec, _ = meta_of(cube).wcs(*centre, 0)
        world = meta_of(base).wcs.get_transform("alpha_beta", "world")(0.07, -0.11, 5.2)
        assert (ra - world[0]) * 3600 == pytest.approx(0, abs=0.015)
        assert (dec - world[1]) * 3600 == pytest.approx(0, abs=0.015)
    assert meta_of(cube).get("PC1_2") is not None


def test_covariance_of_neighbours_is_kept_on_request(base, reference):
    cube = cube_build(base, reference, channel="1", covariance=True)
    assert cube["covariance"].dims == ("lag", "wave", "y", "x")
    var = cube["err"].values ** 2
    inner = (slice(10, -10), slice(5, -5), slice(5, -5))
    share = cube["covariance"].values[0][inner] / var[inner]
    assert 0.05 < np.nanmedian(share) < 1
    with pytest.raises(ParameterError, match="msm"):
        cube_build(base, reference, channel="1", weighting="msm", covariance=True)


def test_the_plan_does_not_depend_on_pixels(base, reference):
    plan = cube_build.plan(base, reference, channel="1")
    other = base.assign(sci=base["sci"] * 7)
    again = cube_build.plan(other, reference, channel="1")
    for name in ("pixels", "rows", "cols", "spatial", "spectral"):
        one, two = (getattr(p.parts[0].operator, name) for p in (plan, again))
        np.testing.assert_array_equal(one, two)


def test_gradient_agrees_with_finite_differences(base, reference):
    jax = pytest.importorskip("jax")
    from spec2fn import transforms

    plan = cube_build.plan(base, reference, channel="1")
    weight = np.random.default_rng(3).normal(size=plan.parts[0].operator.shape)
    weight = weight.astype(np.float32)

    def loss(ds):
        cube = cube_build(ds, plan=plan, channel="1")
        sci = cube["sci"].data
        xp = jax.numpy
        good = xp.isfinite(sci)
        return (xp.where(good, sci, 0) * weight).sum()

    value, gradient = transforms.jit(transforms.value_and_grad(loss))(base)
    gradient = np.asarray(gradient["sci"])
    assert np.isfinite(gradient).all()
    assert float(value) != 0
    step = np.zeros(base["sci"].shape, np.float32)
    step[8:12, 5:12] = 1.0
    moved = base.assign(sci=base["sci"] + step)
    difference = float(loss(moved)) - float(loss(base))
    assert difference == pytest.approx(float((gradient * step).sum()), rel=1e-3)


def test_products_are_read_back(base, reference, tmp_path):
    for ending in ("fits", "nc"):
        for options in ({"channel": "1"}, {"output_type": "multi"}):
            cube = cube_build(base, reference, **options)
            path = save(cube, tmp_path / f"foo_s3d.{ending}")
            back = open_product(path)
            assert back["sci"].dims == ("wave", "y", "x")
            for name in ("sci", "err", "dq", "wmap", "covariance_sum", "covariance_kernel"):
                np.testing.assert_array_equal(back[name].values, cube[name].values)
            np.testing.assert_allclose(back["wavelength"].values, cube["wavelength"], rtol=1e-7)
            for name in ("cube_names", "cube_output_type", "cube_weighting", "cube_coord_system"):
                assert back.attrs[name] == cube.attrs[name]
            found, true = (meta_of(d).wcs(2, 3, 4) for d in (back, cube))
            np.testing.assert_allclose(found, true, rtol=1e-12)


def test_the_file_is_a_cube_model(base, reference, tmp_path):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    path = save(cube_build(base, reference, output_type="multi"), tmp_path / "foo_s3d.fits")
    with fits.open(path) as hdus:
        assert [h.name for h in hdus][:6] == ["PRIMARY", "SCI", "ERR", "DQ", "WMAP", "WCS-TABLE"]
        assert hdus[0].header["WTYPE"] == "drizzle"
        assert hdus["ERR"].header["ERRTYPE"] == "ERR"
    with datamodels.open(path) as model:
        assert isinstance(model, datamodels.IFUCubeModel)
        assert model.weightmap.shape == model.data.shape
        assert model.wavetable["wavelength"].size == model.data.shape[0]


def test_integrations_are_written_and_read(base, reference, tmp_path):
    two = base.drop_vars(["sci", "err", "dq"]).assign(
        {
            n: (("integration", "y", "x"), np.stack([base[n].values] * 2), base[n].attrs)
            for n in ("sci", "err", "dq")
        }
    )
    cube = cube_build(two, reference, channel="1")
    path = save(cube, tmp_path / "foo_s3dints.fits")
    back = open_product(path)
    assert back["sci"].dims == ("integration", "wave", "y", "x")
    np.testing.assert_array_equal(back["sci"].values, cube["sci"].values)
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    with datamodels.open(path) as model:
        assert model.data.shape == cube["sci"].shape


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"channel": "3"}, "channel=3"),
        ({"output_type": "grating"}, "for NIRSpec"),
        ({"coord_system": "internal_cal"}, "ifualign"),
        ({"wavelengths": (5.2, 5.1)}, "must ascend"),
        ({"wavemin": 5.4, "wavemax": 5.3}, "wavemin=5.4 must be less than wavemax=5.3"),
        ({"scalexy": 1e-5}, "correct scalexy"),
        ({"scalexy": 1000.0}, "spaxels of 1000 arcsec"),
        ({"nspax_x": 100001}, "100001 x"),
        ({"scalew": 1e-9}, "correct scalew"),
        ({"ra_center": 10.0}, "ra_center or dec_center"),
        ({"nspax_x": 3999, "nspax_y": 3999, "scalew": 1e-4}, "GiB"),
        ({"wavemin": 5.39, "wavemax": 5.395}, "widen"),
        ({"weighting": "area"}, "drizzle"),
        ({"nspax_x": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_is_said(base, reference, options, text):
    with pytest.raises(ParameterError, match=text):
        cube_build(base, reference, **{"channel": "1", **options})


def test_a_reference_without_the_band_is_named(base, reference):
    broken = reference.assign({"cubepar.band": ("cubepar_row", np.array(["LONG", "LONG"]))})
    with pytest.raises(InputError, match="no row for 1 short"):
        cube_build(base, broken, channel="1")


def test_without_a_wcs(base, reference):
    with pytest.raises(InputError, match="run assign_wcs first"):
        cube_build(base.assign_attrs(meta=Meta()), reference)


def test_other_exposures_are_left_alone(base, reference):
    other = base.assign_attrs(exp_type="MIR_LRS-SLITLESS")
    assert "not of an integral-field unit" in status_of(cube_build(other, reference), "cube_build")
    assert "no cubepar" in status_of(cube_build(base, None), "cube_build")


def test_everything_bad_gives_an_empty_cube(base, reference):
    ds = base.assign(dq=(("y", "x"), np.full(base["dq"].shape, BAD, np.uint32)))
    cube = cube_build(ds, reference, channel="1")
    assert np.isnan(cube["sci"].values).all()
    assert (cube["wmap"].values == 0).all()


@pytest.mark.parametrize("weighting", ["drizzle", "emsm", "msm"])
def test_the_pixels_of_a_voxel_are_told(base, reference, weighting, caplog):
    ds = base.assign(sci=base["sci"].copy(data=star(base)))
    options = {"channel": "1", "weighting": weighting}
    cube = cube_build(ds, reference, **options)
    plane, y, x = np.unravel_index(np.nanargmax(cube["sci"].values), cube["sci"].shape)
    caplog.clear()
    plan = cube_build.plan(ds, reference, **options, debug_spaxel=f"{x} {y} {plane}")
    (text,) = caplog.messages
    assert f"reach spaxel {x} {y} in plane {plane} of ch1-short" in text
    listed = text.partition("value): ")[2].split("; ")
    assert len(listed) == cube["wmap"].values[plane, y, x] > 1
    numbers = np.array([[float(v) for v in one.split()] for one in listed])
    at = numbers[:, :2].astype(int)
    np.testing.assert_allclose(numbers[:, 3], ds["sci"].values[at[:, 1], at[:, 0]], rtol=1e-5)
    mean = np.average(numbers[:, 3], weights=numbers[:, 2])
    assert mean == pytest.approx(cube["sci"].values[plane, y, x], rel=1e-3)
    assert len(plan.parts) == 1


def test_a_voxel_that_is_not_there_is_refused(base, reference):
    for text, says in (("1 2", "needs 'x y plane'"), ("1 2 9999", "count from 0")):
        with pytest.raises(ParameterError, match=says):
            cube_build.plan(base, reference, channel="1", debug_spaxel=text)
