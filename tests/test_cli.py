"""The command line, from the outside: what a user types and reads."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from spec2fn.cli import main
from spec2fn.demo.run import CONTEXT, run_demo
from spec2fn.refs import cache_environment


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A small time series with its references, calibrated."""
    return run_demo("miri-lrs-slitless", tmp_path_factory.mktemp("demo"), integrations=3)


@pytest.fixture(scope="session")
def slit_demo(tmp_path_factory):
    return run_demo("miri-lrs-slit", tmp_path_factory.mktemp("slit"))


@pytest.fixture
def crds(demo, monkeypatch):
    for key, value in cache_environment(demo.files["cache"], CONTEXT).items():
        monkeypatch.setenv(key, value)


@pytest.fixture
def exposure(demo, tmp_path):
    """A private copy of the exposure."""
    (source,) = Path(demo.folder).glob("*_rateints.fits")
    return Path(shutil.copy(source, tmp_path))


def spec2fn(*args, capsys):
    try:
        status = main([str(a) for a in args])
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def fails(*args, capsys, status=2):
    """Run, expect failure, and return the one line that says why."""
    code, out, err = spec2fn(*args, capsys=capsys)
    assert code == status, (code, out, err)
    assert len(err.strip().splitlines()) == 1, err
    assert "Traceback" not in err
    return err.strip()


def nothing_left(folder):
    return [p for p in Path(folder).rglob("*") if p.is_file()] == []


def test_run_writes_what_the_demo_wrote(demo, crds, exposure, tmp_path, capsys):
    out = tmp_path / "out"
    args = ("run", exposure, "--output-dir", out, "--set", "pixel_replace.skip=false")
    status, text, _ = spec2fn(*args, "--json", capsys=capsys)
    assert status == 0
    report = json.loads(text)
    assert report["mode"] == "MIRI_LRS_SLITLESS"
    steps = {s["step"]: s for s in report["steps"]}
    assert steps["photom"]["status"] == "COMPLETE"
    assert steps["pixel_replace"]["parameters"]["skip"] == {"value": False, "origin": "user"}
    assert steps["targ_centroid"]["status"].startswith("SKIPPED: ")
    for kind in ("cal", "x1d"):
        made = fits.getdata(report["products"][kind], 1)
        np.testing.assert_array_equal(made, fits.getdata(demo.files[kind], 1))


def test_same_input_same_bytes(crds, exposure, tmp_path, capsys):
    for name in ("a", "b"):
        assert spec2fn("run", exposure, "--output-dir", tmp_path / name, capsys=capsys)[0] == 0
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_pieces_give_the_same_bytes(crds, exposure, tmp_path, capsys):
    for name, extra in (("whole", ()), ("pieces", ("--chunk-integrations", 2))):
        args = ("run", exposure, "--output-dir", tmp_path / name, *extra)
        assert spec2fn(*args, capsys=capsys)[0] == 0
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "pieces" / path.name).read_bytes()
    status, text, _ = spec2fn("diff", tmp_path / "whole", tmp_path / "pieces", capsys=capsys)
    assert status == 0, text


def test_netcdf_and_saved_steps(crds, exposure, tmp_path, capsys):
    args = ("--format", "netcdf", "--save-step", "flat_field", "--skip", "extract_1d")
    status, *_ = spec2fn("run", exposure, "--output-dir", tmp_path / "o", *args, capsys=capsys)
    assert status == 0
    names = sorted(p.name.rsplit("mirimage_", 1)[1] for p in (tmp_path / "o").iterdir())
    assert names == ["calints.nc", "flat_field.nc"]


def test_home_is_expanded_wherever_a_path_is_given(
    demo, crds, exposure, tmp_path, capsys, monkeypatch
):
    home = tmp_path / "home"
    home.mkdir()
    exposure.rename(home / exposure.name)
    (flat,) = Path(demo.files["cache"]).rglob("jwst_miri_flat_0001.fits")
    (home / "flat.fits").symlink_to(flat)
    (home / "cache").symlink_to(demo.files["cache"])
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("CRDS_PATH", "~/cache")
    args = ("--output-dir=~/out", "--override", "flat=~/flat.fits", "--skip", "extract_1d")
    status, *_ = spec2fn("run", f"~/{exposure.name}", *args, capsys=capsys)
    assert status == 0
    assert [p.name.rsplit("_", 1)[1] for p in (home / "out").iterdir()] == ["calints.fits"]
    assert list(Path().iterdir()) == []


def test_plan_says_what_would_happen(crds, exposure, tmp_path, capsys):
    args = ("plan", exposure, "--set", "photom.apply_time_correction=false")
    status, text, _ = spec2fn(*args, capsys=capsys)
    assert status == 0
    assert "apply_time_correction = False  [user]" in text
    assert "skip  badpix_selfcal  (off by default; switch on with --set" in text
    assert "skip  background  (no background exposure is associated)" in text
    assert "flat: jwst_miri_flat_0001.fits" in text
    assert "expected peak memory" in text


def test_plan_lists_everything_missing(crds, demo, exposure, tmp_path, capsys, monkeypatch):
    cache = tmp_path / "cache"
    shutil.copytree(demo.files["cache"], cache)
    for name in ("flat", "photom"):
        (cache / "references" / "jwst" / "miri" / f"jwst_miri_{name}_0001.fits").unlink()
    monkeypatch.setenv("CRDS_PATH", str(cache))
    status, text, _ = spec2fn("plan", exposure, capsys=capsys)
    assert status == 2
    assert "jwst_miri_flat_0001.fits" in text.partition("missing references")[2]
    assert "jwst_miri_photom_0001.fits" in text.partition("missing references")[2]
    code, _, err = spec2fn("run", exposure, "--output-dir", tmp_path / "o", capsys=capsys)
    assert code == 2
    assert "jwst_miri_flat_0001.fits" in err
    assert "jwst_miri_photom_0001.fits" in err
    assert nothing_left(tmp_path / "o")


def test_lock_round_trip(crds, exposure, tmp_path, capsys):
    lock = tmp_path / "refs.json"
    assert spec2fn("refs", exposure, "--write-lock", lock, capsys=capsys)[0] == 0
    status, text, _ = spec2fn("refs", exposure, "--lock", lock, "--json", capsys=capsys)
    assert status == 0
    assert json.loads(text)["references"]["flat"] == "jwst_miri_flat_0001.fits"


def test_modes(capsys):
    status, text, _ = spec2fn("modes", "--json", capsys=capsys)
    assert status == 0
    assert json.loads(text)["MIR_LRS-FIXEDSLIT"]["elements"][-1] == "product(x1d)"
    mos = json.loads(text)["NRS_MSASPEC"]["elements"]
    assert mos.index("srctype") < mos.index("mos/barshadow") < mos.index("fs/photom")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (
            ("--set", "phtom.inverse=true"),
            "no step 'phtom' in this pipeline; did you mean 'photom'",
        ),
        (("--set", "photom.invers=true"), "photom has no parameter 'invers'; did you mean 'inv"),
        (("--set", "photom.inverse=7"), "photom.inverse: needs bool, got '7'"),
        (("--set", "badpix_selfcal.kernel_size=0"), "out of range, allowed is from 1 to 4095"),
        (("--set", "nonsense"), "--set needs STEP.PARAM=VALUE, got 'nonsense'"),
        (("--override", "flt=x.fits"), "did you mean 'flat'"),
        (("--override", "flat=missing.fits"), "missing.fits"),
        (("--context", "jwst_9999.pmap"), "jwst_9999.pmap"),
        (("--skip", "nothing"), "no step 'nothing'"),
        (("--from", "photm"), "no step 'photm' in this pipeline; did you mean 'photom'"),
        (("--from", "photom"), "nothing says that it has been through background, flat_field"),
    ],
)
def test_bad_arguments(crds, exposure, tmp_path, capsys, args, says):
    out = tmp_path / "out"
    line = fails("run", exposure, "--output-dir", out, *args, capsys=capsys)
    assert says in line
    assert nothing_left(out)


def test_bad_exposures(crds, exposure, tmp_path, capsys):
    out = tmp_path / "out"

    def run(path):
        line = fails("run", path, "--output-dir", out, capsys=capsys)
        assert nothing_left(out)
        return line

    assert "missing_rate.fits" in run(tmp_path / "missing_rate.fits")
    truncated = tmp_path / "truncated_rateints.fits"
    truncated.write_bytes(exposure.read_bytes()[:200_000])
    assert "truncated_rateints.fits" in run(truncated)
    text = tmp_path / "text_rate.fits"
    text.write_text("no FITS file")
    assert "text_rate.fits" in run(text)
    no_sci = tmp_path / "nosci_rate.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 2)), name="ERR")]).writeto(no_sci)
    assert "has no SCI extension" in run(no_sci)
    for keyword, value, says in (
        ("EXP_TYPE", "MIR_IMAGE", "EXP_TYPE 'MIR_IMAGE' is not spectroscopic"),
        ("EXP_TYPE", "NRC_GRISM", "has no pipeline"),
        ("V2_REF", None, "V2_REF"),
    ):
        changed = tmp_path / f"changed_{value}_rateints.fits"
        with fits.open(exposure) as hdus:
            for hdu in hdus:
                if keyword in hdu.header:
                    if value is None:
                        del hdu.header[keyword]
                    else:
                        hdu.header[keyword] = value
            hdus.writeto(changed)
        line = run(changed)
        assert says in line
        assert changed.name in line or keyword == "EXP_TYPE"


def test_bad_associations(crds, exposure, tmp_path, capsys):
    out = tmp_path / "out"

    def association(*products, name="asn.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"asn_type": "spec2", "asn_pool": "p", "products": products}))
        return path

    def product(*members):
        return {"name": "p", "members": [{"expname": n, "exptype": t} for n, t in members]}

    good = product((exposure.name, "science"))
    for products, says in (
        ((good, good), "2 products"),
        ((product((exposure.name, "background")),), "science"),
        (
            (product((exposure.name, "science"), ("gone_rate.fits", "background")),),
            "gone_rate.fits",
        ),
        ((product(("../outside_rate.fits", "science")),), "outside"),
    ):
        line = fails("run", association(*products), "--output-dir", out, capsys=capsys)
        assert says in line
    (tmp_path / "broken.json").write_text("{")
    assert "broken.json" in fails("run", tmp_path / "broken.json", capsys=capsys)
    assert nothing_left(out)


def test_bad_references(crds, demo, exposure, tmp_path, capsys):
    out = tmp_path / "out"
    refs = Path(demo.files["cache"]) / "references" / "jwst" / "miri"
    small = tmp_path / "small_flat.fits"
    with fits.open(refs / "jwst_miri_flat_0001.fits") as hdus:
        for hdu in hdus:
            if isinstance(hdu, fits.ImageHDU):
                hdu.data = hdu.data[:100]
        hdus.writeto(small)
    line = fails("run", exposure, "--output-dir", out, "--override", f"flat={small}", capsys=capsys)
    assert "flat" in line
    assert "(100, 72)" in line
    wrong = refs / "jwst_miri_photom_0001.fits"
    line = fails("run", exposure, "--output-dir", out, "--override", f"flat={wrong}", capsys=capsys)
    assert "PHOTOM" in line.upper()
    assert nothing_left(out)


def test_output_folder_cannot_be_used(crds, exposure, tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("")
    line = fails("run", exposure, "--output-dir", blocker / "below", capsys=capsys)
    assert "output folder" in line


def test_disk_full_leaves_nothing(crds, exposure, tmp_path, capsys, monkeypatch):
    import errno

    real = os.fsync

    def full(descriptor):
        real(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, _, err = spec2fn("run", exposure, "--output-dir", tmp_path / "o", capsys=capsys)
    assert status in (1, 2)
    assert "No space left on device" in err
    assert len(err.strip().splitlines()) == 1
    assert nothing_left(tmp_path / "o")


def test_killing_leaves_no_incomplete_product(crds, demo, exposure, tmp_path):
    """Whatever stands under a final product name is complete."""
    complete = {p.name: p.stat().st_size for p in (Path(demo.folder) / "products").iterdir()}
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        out = tmp_path / f"out{delay}"
        command = [sys.executable, "-m", "spec2fn", "run", str(exposure), "--output-dir", str(out),
                   "--set", "pixel_replace.skip=false"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out.exists() and any(out.iterdir())):
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in out.glob("jw*.fits"):
            assert path.stat().st_size == complete[path.name], path
            fits.open(path)["ASDF"].data  # noqa: B018


def test_association_with_everything(slit_demo, tmp_path, capsys, monkeypatch):
    for key, value in cache_environment(slit_demo.files["cache"], CONTEXT).items():
        monkeypatch.setenv(key, value)
    args = ("--save-bsub", "--set", "targ_centroid.skip=false", "--set", "bkg_subtract.sigma=4")
    status, text, _ = spec2fn(
        "run", slit_demo.files["input"], "--output-dir", tmp_path, *args, "--json", capsys=capsys
    )
    assert status == 0
    report = json.loads(text)
    assert set(report["products"]) == {"bsub", "cal", "s2d", "x1d"}
    steps = {s["step"]: s for s in report["steps"]}
    assert steps["background"]["parameters"]["sigma"] == {"value": 4.0, "origin": "user"}
    assert steps["targ_centroid"]["status"] == "COMPLETE"
    assert report["references"]["target_acquisition:filteroffset"]["name"].endswith(".asdf")
    assert len(report["references"]["flat"]["sha256"]) == 64
    with fits.open(report["products"]["x1d"]) as hdus:
        record = json.loads(str(hdus["SPEC2FN"].data[0][0]))
    assert record["references"] == report["references"]
    assert "seconds" not in record


def test_images_that_steps_save(slit_demo, tmp_path, capsys, monkeypatch):
    for key, value in cache_environment(slit_demo.files["cache"], CONTEXT).items():
        monkeypatch.setenv(key, value)
    asked = ("background.save_combined_background", "flat_field.save_interpolated_flat",
             "badpix_selfcal.save_flagged_bkg", "extract_1d.save_profile",
             "extract_1d.save_scene_model", "extract_1d.save_residual_image")  # fmt: skip
    args = [a for name in asked for a in ("--set", f"{name}=true")]
    status, _, err = spec2fn(
        *("run", slit_demo.files["input"], "--output-dir", tmp_path),
        *("--set", "badpix_selfcal.skip=false", *args),
        capsys=capsys,
    )
    assert status == 0, err
    suffixes = {p.stem.split("mirimage_")[1] for p in tmp_path.iterdir()}
    assert suffixes == {"cal", "s2d", "x1d", "combinedbackground", "interpolatedflat", "profile",
                        "scene_model", "residual", "badpix_selfcal_bkg_0"}  # fmt: skip
    for path in tmp_path.iterdir():
        with fits.open(path) as hdus:
            assert hdus[1].data is not None


def calibrated(demo, folder):
    """A private copy of the calibrated product of the demo."""
    return Path(shutil.copy(demo.files["cal"], folder))


def test_a_product_is_gone_on_with_on_purpose_only(crds, demo, exposure, tmp_path, capsys):
    cal = calibrated(demo, tmp_path)
    before = cal.read_bytes()
    for command in ("run", "plan", "refs"):
        where = ("--output-dir", tmp_path) if command == "run" else ()
        line = fails(command, cal, *where, capsys=capsys)
        assert "has been through flat_field, photom already" in line
        assert "--from extract_1d" in line
    assert cal.read_bytes() == before
    status, text, _ = spec2fn("plan", cal, "--from", "pixel_replace", capsys=capsys)
    assert status == 0
    assert "photom" not in text
    assert "products: x1d" in text
    args = ("run", cal, "--from", "pixel_replace", "--set", "pixel_replace.skip=false")
    status, text, _ = spec2fn(*args, "--output-dir", tmp_path, "--json", capsys=capsys)
    assert status == 0
    report = json.loads(text)
    assert list(report["products"]) == ["x1d"]
    assert cal.read_bytes() == before
    files = report["products"]["x1d"], demo.files["x1d"]
    made, whole = (fits.getdata(p, "EXTRACT1D") for p in files)
    for name in ("WAVELENGTH", "FLUX", "FLUX_ERROR"):
        np.testing.assert_allclose(made[name], whole[name], rtol=1e-6)
    line = fails("run", report["products"]["x1d"], "--output-dir", tmp_path, capsys=capsys)
    assert "is a file of extracted spectra (_x1d); calibration starts from" in line


def test_a_saved_step_is_gone_on_with(crds, exposure, tmp_path, capsys):
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    args = ("--output-dir", whole, "--save-step", "flat_field")
    assert spec2fn("run", exposure, *args, capsys=capsys)[0] == 0
    (saved,) = whole.glob("*_flat_field.fits")
    args = ("--from", "photom", "--output-dir", rest)
    status, *_ = spec2fn("run", saved, *args, capsys=capsys)
    assert status == 0
    for path in rest.iterdir():
        for ext in ("SCI", "ERR", "DQ") if "cal" in path.name else ("EXTRACT1D",):
            made, other = (fits.getdata(p / path.name, ext) for p in (rest, whole))
            names = made.names if ext == "EXTRACT1D" else None
            for a, b in [(made[n], other[n]) for n in names] if names else [(made, other)]:
                if a.dtype.kind == "f":
                    np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("how", ["same", "symbolic", "hard"])
def test_a_product_never_takes_the_place_of_an_input(crds, exposure, tmp_path, capsys, how):
    # a rate file that has the name of what is made of it
    named = exposure.rename(exposure.with_name(exposure.name.replace("_rateints", "_calints")))
    out = tmp_path if how == "same" else tmp_path / "out"
    out.mkdir(exist_ok=True)
    if how == "symbolic":
        (out / named.name).symlink_to(named)
    elif how == "hard":
        (out / named.name).hardlink_to(named)
    before = named.read_bytes()
    for extra in ((), ("--chunk-integrations", 1)):
        line = fails("run", named, "--output-dir", out, *extra, capsys=capsys)
        assert "is an input of this run" in line
        assert named.name in line
    assert named.read_bytes() == before
    assert [p.name for p in out.glob("jw*")] == [named.name]


def test_nor_of_a_member_or_a_reference(crds, demo, exposure, tmp_path, capsys):
    flat = Path(demo.files["cache"]) / "references/jwst/miri/jwst_miri_flat_0001.fits"
    name = exposure.name.replace("_rateints", "_interpolatedflat")
    mine = Path(shutil.copy(flat, tmp_path / name))
    args = ("--override", f"flat={mine}", "--set", "flat_field.save_interpolated_flat=true")
    line = fails("run", exposure, "--output-dir", tmp_path, *args, capsys=capsys)
    assert f"{name}: is an input of this run" in line
    assert mine.read_bytes() == flat.read_bytes()
    line = fails("refs", exposure, "--write-lock", exposure, capsys=capsys)
    assert "is an input of this run" in line
    cal = calibrated(demo, tmp_path)
    assert "is an input of this run" in fails("pixel-table", cal, "-o", cal, capsys=capsys)


@pytest.mark.parametrize(
    "locale",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
def test_letters_that_the_locale_lacks(crds, exposure, tmp_path, locale):
    exposure = exposure.rename(exposure.with_name("\u00e9 \u661f_rateints.fits"))
    out = tmp_path / "\u00e9toile \u661f"
    for extra in ((), ("--json",)):
        command = [sys.executable, "-m", "spec2fn", "run", str(exposure), "--output-dir", str(out)]
        done = subprocess.run(
            [*command, *extra],
            env={**os.environ, **locale},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        if extra:
            assert set(json.loads(done.stdout)["products"]) == {"cal", "x1d"}
    names = {"\u00e9 \u661f_calints.fits", "\u00e9 \u661f_x1dints.fits"}
    assert {p.name for p in out.iterdir()} == names
    for path in out.iterdir():
        assert fits.getval(path, "FILENAME").endswith(f"?_{path.name[4:]}")
    # and in the line of an error
    done = subprocess.run(
        [sys.executable, "-m", "spec2fn", "run", str(out / "none_rate.fits")],
        env={**os.environ, **locale},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert b"none_rate.fits" in done.stderr


def test_a_step_without_what_it_reads_is_an_error_of_the_input(crds, exposure, tmp_path, capsys):
    args = ("--output-dir", tmp_path / "out", "--skip", "flat_field", "--skip", "photom")
    assert spec2fn("run", exposure, *args, capsys=capsys)[0] == 0
    with fits.open(exposure) as hdus:
        del hdus["DQ"]
        hdus.writeto(tmp_path / "nodq_rateints.fits")
    line = fails("run", tmp_path / "nodq_rateints.fits", capsys=capsys)
    assert "nodq_rateints.fits" in line
    assert "dq" in line.lower()


def test_tolerances_and_seeds_are_checked(demo, tmp_path, capsys):
    cal = demo.files["cal"]
    for args in (("--rtol", "-1"), ("--rtol", "nan"), ("--atol", "inf")):
        assert "a finite number from 0 on" in fails("diff", cal, cal, *args, capsys=capsys)
    args = ("demo", "miri-lrs-slit", "--seed", "-1", "--output-dir", tmp_path / "d")
    assert "seed must be at least 0" in fails(*args, capsys=capsys)
    assert nothing_left(tmp_path)
