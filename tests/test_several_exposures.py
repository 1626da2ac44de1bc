"""Lists, folders and associations with several products, as they are given to the command line."""

import json
import os
import shutil
from pathlib import Path

import pytest
from astropy.io import fits

import spec2fn
from spec2fn.calibration import batch
from spec2fn.cli import main
from spec2fn.demo.run import CONTEXT, run_demo
from spec2fn.errors import InputError, NoDataOnDetectorError
from spec2fn.refs import cache_environment

SHORT = ("--skip", "extract_1d", "--skip", "pixel_replace")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return run_demo("miri-lrs-slitless", tmp_path_factory.mktemp("demo"), integrations=2)


@pytest.fixture
def folder(demo, tmp_path, monkeypatch):
    """Two exposures, an image, and an association of each of two products."""
    for key, value in cache_environment(demo.files["cache"], CONTEXT).items():
        monkeypatch.setenv(key, value)
    (source,) = Path(demo.folder).glob("*_rateints.fits")
    inside = tmp_path / "night"
    inside.mkdir()
    for name in ("a", "b"):
        shutil.copy(source, inside / f"{name}_rateints.fits")
    with fits.open(source) as hdus:
        hdus[0].header["EXP_TYPE"] = "MIR_IMAGE"
        hdus.writeto(inside / "image_rate.fits")
    return inside


def association(folder, *members, name="two_asn.json", kind="spec2"):
    products = [
        {"name": product, "members": [{"expname": file, "exptype": "science"}]}
        for product, file in members
    ]
    path = folder / name
    path.write_text(json.dumps({"asn_type": kind, "asn_pool": "pool", "products": products}))
    return path


def run(*args, capsys):
    status = main(["run", *map(str, args)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def made(folder):
    return sorted(p.name for p in folder.iterdir())


def test_every_product_of_an_association(folder, tmp_path, capsys):
    path = association(folder, ("one", "a_rateints.fits"), ("two", "b_rateints.fits"))
    out = tmp_path / "out"
    status, _, err = run(path, "--output-dir", out, capsys=capsys)
    assert status == 2
    assert "two_asn.json: has 2 products (one, two); spec2fn run --all-products" in err
    assert not out.exists() or made(out) == []
    status, text, err = run(path, "--output-dir", out, "--all-products", *SHORT, capsys=capsys)
    assert status == 0, err
    assert made(out) == ["one_calints.fits", "two_calints.fits"]
    assert "two_asn.json: one:" in text
    header = fits.getheader(out / "two_calints.fits")
    assert (header["ASNTABLE"], header["ASNPOOL"]) == ("two_asn.json", "pool")
    assert header["FILENAME"] == "two_calints.fits"


def test_a_folder_is_what_its_associations_name_and_the_rest(folder, tmp_path, capsys):
    association(folder, ("one", "a_rateints.fits"))
    association(folder, ("image", "image_rate.fits"), name="image_asn.json", kind="image2")
    out = tmp_path / "out"
    status, text, err = run(folder, "--output-dir", out, *SHORT, "--json", capsys=capsys)
    assert status == 0, err
    assert made(out) == ["b_calints.fits", "one_calints.fits"]
    assert "image_rate.fits (MIR_IMAGE) is left out" in err
    assert "image_asn.json: is an association of type 'image2', not one of spectra (spec2)" in err
    assert [r["mode"] for r in json.loads(text)] == ["MIRI_LRS_SLITLESS"] * 2


def test_one_that_fails_does_not_stop_the_others(folder, tmp_path, capsys):
    (folder / "a_rateints.fits").write_bytes(b"SIMPLE  =  nonsense")
    out = tmp_path / "out"
    files = (folder / "a_rateints.fits", folder / "b_rateints.fits")
    status, text, err = run(*files, "--output-dir", out, *SHORT, "--json", capsys=capsys)
    assert status == 2
    assert err.startswith("spec2fn: a_rateints.fits: ")
    assert made(out) == ["b_calints.fits"]
    failed, done = json.loads(text)
    assert failed["input"] == "a_rateints.fits"
    assert failed["error"] in err
    assert done["products"]["cal"] == str(out / "b_calints.fits")
    args = ("--output-dir", out, *SHORT, "--fail-on-exception", "false")
    assert run(*files, *args, capsys=capsys)[0] == 0
    status, _, err = run(files[0], *args, capsys=capsys)
    assert (status, err.count("\n")) == (0, 1)


def test_a_parameter_file_says_whether_failures_count(folder, tmp_path, capsys):
    import asdf

    path = tmp_path / "pars.asdf"
    tree = {
        "class": "jwst.pipeline.calwebb_spec2.Spec2Pipeline",
        "name": "Spec2Pipeline",
        "parameters": {"fail_on_exception": False, "save_bsub": False},
        "steps": [{"name": "extract_1d", "class": "x", "parameters": {"skip": True}}],
    }
    asdf.AsdfFile(tree).write_to(path)
    missing = (folder / "gone_rate.fits", "--parameters", path)
    assert run(*missing, capsys=capsys)[0] == 0
    assert run(*missing, "--fail-on-exception", "true", capsys=capsys)[0] == 2
    out = tmp_path / "out"
    args = (folder / "a_rateints.fits", "--output-dir", out, "--parameters", path, "--json")
    status, text, _ = run(*args, capsys=capsys)
    assert status == 0
    assert made(out) == ["a_calints.fits"]
    last = json.loads(text)["steps"][-1]
    assert last["step"] == "extract_1d"
    assert last["parameters"]["skip"] == {"value": True, "origin": "parameter file"}


def test_no_data_on_the_detector_is_a_status_of_its_own(folder, monkeypatch, capsys):
    def nothing(*_args, **_options):
        raise NoDataOnDetectorError("assign_wcs: no slice of the IFU falls on detector NRS2")

    monkeypatch.setattr(batch, "calibrate", nothing)
    files = (folder / "a_rateints.fits", folder / "b_rateints.fits")
    for args in (files[:1], files, (*files, "--fail-on-exception", "false")):
        status, _, err = run(*args, capsys=capsys)
        assert status == 64
        assert "no slice of the IFU falls on detector NRS2" in err


def test_products_of_the_same_name_are_refused(folder, tmp_path, capsys):
    path = association(folder, ("a", "b_rateints.fits"))
    out = tmp_path / "out"
    status, _, err = run(path, folder / "a_rateints.fits", "--output-dir", out, capsys=capsys)
    assert status == 2
    assert "make products of the same name, a; calibrate them into different folders" in err
    assert not out.exists()


def test_a_folder_without_spectra_is_refused(folder, tmp_path, capsys):
    for path in folder.glob("*_rateints.fits"):
        path.unlink()
    status, _, err = run(folder, capsys=capsys)
    assert status == 2
    assert "night: the folder holds neither _rate or _rateints files of spectra nor" in err


def test_a_reference_of_one_step(demo, folder, tmp_path, capsys):
    (flat,) = Path(demo.files["cache"]).rglob("jwst_miri_flat_0001.fits")
    mine = Path(shutil.copy(flat, tmp_path / "mine.fits"))
    out = tmp_path / "out"
    args = (folder / "a_rateints.fits", "--output-dir", out, *SHORT, "--json")
    given = ("--set", f"flat_field.override_flat={mine}")
    status, text, err = run(*args, *given, capsys=capsys)
    assert status == 0, err
    report = json.loads(text)
    assert report["references"]["flat_field:flat"]["name"] == "mine.fits"
    assert "flat" not in report["references"]
    header = fits.getheader(out / "a_calints.fits")
    assert header["R_FLAT"] == "mine.fits"
    missing = ("--set", "flat_field.override_flat=gone.fits")
    status, _, err = run(*args, *missing, capsys=capsys)
    assert status == 2
    assert "gone.fits" in err
    none = ("--set", "flat_field.override_flat=N/A")
    status, text, _ = run(*args, *none, capsys=capsys)
    assert status == 0
    steps = {s["step"]: s["status"] for s in json.loads(text)["steps"]}
    assert steps["flat_field"].startswith("SKIPPED: no flat reference")


def test_a_reference_of_one_step_is_locked(demo, folder, tmp_path, capsys):
    (flat,) = Path(demo.files["cache"]).rglob("jwst_miri_flat_0001.fits")
    mine, other = (Path(shutil.copy(flat, tmp_path / f"{n}.fits")) for n in ("mine", "other"))
    source, lock = folder / "a_rateints.fits", tmp_path / "lock.json"
    given = ("--set", f"flat_field.override_flat={mine}")
    assert main(["refs", str(source), *given, *SHORT, "--write-lock", str(lock)]) == 0
    capsys.readouterr()
    assert json.loads(lock.read_text())["references"]["flat_field:flat"]["path"] == str(mine)
    args = (source, "--lock", lock, "--output-dir", tmp_path / "out", *SHORT, "--json")

    def used(*more):
        status, text, err = run(*args, *more, capsys=capsys)
        assert status == 0, err
        return json.loads(text)["references"]["flat_field:flat"]["name"]

    assert used() == "mine.fits"
    assert used("--set", f"flat_field.override_flat={other}") == "other.fits"
    with fits.open(mine, mode="update") as hdus:
        hdus[0].header["AUTHOR"] = "somebody"
    status, _, err = run(*args, capsys=capsys)
    assert status == 2
    assert "differs from what the lock holds (flat_field:flat" in err
    status, _, _ = run(*args, "--skip", "flat_field", capsys=capsys)
    assert status == 0
    mine.unlink()
    status, _, err = run(*args, capsys=capsys)
    assert status == 2
    assert "mine.fits cannot be read" in err


def test_no_reference_of_one_step_is_locked(folder, tmp_path, capsys):
    source, lock = folder / "a_rateints.fits", tmp_path / "lock.json"
    none = ("--set", "flat_field.override_flat=N/A")
    assert main(["refs", str(source), *none, *SHORT, "--write-lock", str(lock)]) == 0
    capsys.readouterr()
    args = (source, "--lock", lock, "--output-dir", tmp_path / "out", *SHORT, "--json")
    status, text, err = run(*args, capsys=capsys)
    assert status == 0, err
    steps = {s["step"]: s["status"] for s in json.loads(text)["steps"]}
    assert steps["flat_field"].startswith("SKIPPED: no flat reference")


def test_arguments_of_the_official_command_line(folder, tmp_path, capsys):
    out = tmp_path / "out"
    args = (f"--output_dir={out}", "--steps.extract_1d.skip=true", "--save_results=true")
    args += ("--steps.bkg_subtract.sigma=4", "--save_bsub=false", "--fail_on_exception=False")
    status, text, err = run(
        folder / "a_rateints.fits", folder / "no.fits", *args, "--json", capsys=capsys
    )
    assert status == 0, err
    assert made(out) == ["a_calints.fits"]
    steps = {s["step"]: s["parameters"] for s in json.loads(text)[0]["steps"]}
    assert steps["background"]["sigma"] == {"value": 4.0, "origin": "user"}


def test_a_plan_of_several(folder, capsys):
    path = association(folder, ("one", "a_rateints.fits"), ("two", "b_rateints.fits"))
    assert main(["plan", str(path), "--all-products", "--json"]) == 0
    assert [p["name"] for p in json.loads(capsys.readouterr().out)] == ["one", "two"]


def test_from_python(folder, tmp_path):
    found = spec2fn.calibrate_all(
        [folder / "a_rateints.fits", folder / "gone_rate.fits"],
        tmp_path / "out",
        skip=["extract_1d"],
    )
    done, failed = found
    assert done.error is None
    assert done.calibration.files["cal"].name == "a_calints.fits"
    assert failed.task.label == "gone_rate.fits"
    assert isinstance(failed.error, InputError)


@pytest.fixture(scope="module")
def nods(tmp_path_factory):
    return run_demo("miri-lrs-slit", tmp_path_factory.mktemp("nods"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, nods):
    """``rendered(mode)``: the demo of a mode, made once."""
    made = {"miri-lrs-slit": nods}

    def make(mode):
        if mode not in made:
            made[mode] = run_demo(mode, tmp_path_factory.mktemp(mode))
        return made[mode]

    return make


def rendered_members(demo, association, folder):
    """The exposures that a published association names, with the pixels of the demo's."""
    source = Path(demo.folder)
    given = [json.loads(p.read_text()) for p in source.glob("*_asn.json")]
    listed = [m for asn in given for m in asn["products"][0]["members"]]
    alone = [{"exptype": "science", "expname": p.name} for p in source.glob("*_rate*.fits")]
    have = {m["exptype"]: source / m["expname"] for m in listed or alone}
    for path in source.glob("*_msa.fits"):
        shutil.copy(path, folder)
    shutil.copy(association, folder)
    for product in json.loads(association.read_text())["products"]:
        for member in product["members"]:
            role = ROLES.get(member["exptype"], member["exptype"])
            # what the demo does not have is as the science exposure
            copy = folder / member["expname"]
            shutil.copy(have.get(role, have["science"]), copy)
            if role not in ("sourcecat", "segmap", "direct_image"):
                fits.setval(copy, "EXPOSURE", value=f"{len(list(folder.iterdir())):05d}")
                fits.setval(copy, "FILENAME", value=copy.name)
    return folder / association.name


ROLES = {"catalog": "sourcecat"}
PUBLISHED = {
    "archived/pool_009_spec_miri_lv2bkg-c1001_spec2_001": "miri-lrs-slit",
    "archived/pool_028_mir_lrsfs_nods-o001_spec2_001": "miri-lrs-slit",
    "archived/pool_009_spec_miri_lv2bkg-o002_spec2_001": "miri-mrs",
    "archived/pool_007_spec_miri-o003_tso-spec2_001": "miri-lrs-slitless",
    "archived/pool_005_spec_niriss-o001_tso-spec2_001": "niriss-soss",
    "archived/pool_010_spec_nirspec_lv2bkg-c1000_spec2_001": "nirspec-fs",
    "current_jwst300/pool_024_nirspec_fss_nods_0000_spec2": "nirspec-fs",
    "current_jwst300/pool_023_nirspec_msa_3nod_0000_spec2": "nirspec-mos",
    "archived/pool_017_spec_nirspec_lv2imprint-o001_spec2_001": "nirspec-ifu",
    "archived/pool_018_all_exptypes-c1005_spec2_001": "nirspec-ifu",
    "archived/pool_027_nirspec_ifu_nods-o002_spec2_001": "nirspec-ifu",
    "archived/pool_018_all_exptypes-o045_spec2-nrslamp_001": "nirspec-lamp",
    "archived/jw96215_20180602T170215_pool-o001_nrslamp-spec2_001": "nirspec-lamp",
    "current_jwst300/jw87800_20180412T163456_pool_0000_spec2": "niriss-wfss",
}
LATE = ("adaptive_trace_model", "pixel_replace", "resample_spec", "cube_build", "extract_1d")
LATE += ("residual_fringe", "master_background", "wfss_contam")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if mode == "miri-lrs-slit" else pytest.mark.nightly)
        for n, mode in PUBLISHED.items()
    ],
)
def test_published_associations_run(rendered, name, tmp_path, monkeypatch, capsys):
    root = os.environ.get("SPEC2FN_REALDATA")
    if not root or not Path(root, "round2", "asn").is_dir():
        pytest.skip("SPEC2FN_REALDATA is not set: no published associations")
    demo = rendered(PUBLISHED[name])
    for key, value in cache_environment(demo.files["cache"], CONTEXT).items():
        monkeypatch.setenv(key, value)
    published = Path(root, "round2", "asn", f"{name}_asn.json")
    path = rendered_members(demo, published, tmp_path)
    out = tmp_path / "out"
    args = ["--all-products", "--json"]
    for step in LATE:
        args += ["--set", f"{step}.skip=true"]
    status, text, err = run(path, "--output-dir", out, *args, capsys=capsys)
    assert status == 0, err
    products = json.loads(published.read_text())["products"]
    kind = "calints" if PUBLISHED[name] in ("miri-lrs-slitless", "niriss-soss") else "cal"
    assert made(out) == sorted(f"{p['name']}_{kind}.fits" for p in products)
    reports = json.loads(text) if len(products) > 1 else [json.loads(text)]
    steps = [{s["step"]: s["status"] for s in report["steps"]} for report in reports]
    for role, step in (("background", "background"), ("imprint", "imprint")):
        taken = [any(m["exptype"] == role for m in p["members"]) for p in products]
        assert [s.get(step) == "COMPLETE" for s, t in zip(steps, taken, strict=True) if t] == (
            [True] * sum(taken)
        )
    header = fits.getheader(out / f"{products[0]['name']}_{kind}.fits")
    assert header["ASNTABLE"] == path.name
    assert header["ASNPOOL"] == json.loads(published.read_text())["asn_pool"]


def test_every_official_default_at_once(nods, tmp_path, monkeypatch):
    official = Path(__file__).parents[1] / "docs" / "official.yaml"
    if not official.exists():
        pytest.skip("not in a checkout")
    import yaml

    known = yaml.safe_load(official.read_text("utf-8"))
    params = {
        name: known["every_step"] | step["parameters"] | {f"override_{r}": None for r in
        step["references"]} for name, step in known["steps"].items()
    }  # fmt: skip
    for key, value in cache_environment(nods.files["cache"], CONTEXT).items():
        monkeypatch.setenv(key, value)
    (path,) = Path(nods.folder).glob("*_asn.json")
    done = spec2fn.calibrate(path, params=params)
    plain = spec2fn.calibrate(path, parameter_references=False)
    assert {"cal", "s2d", "x1d"} <= set(done.products)
    assert done.warnings == plain.warnings
    assert "cube_build.scalexy" in done.report["ignored_parameters"]
    for kind in ("cal", "x1d"):
        a, b = (p.products[kind] for p in (done, plain))
        for variable in ("sci",) if kind == "cal" else ("flux",):
            assert a[variable].identical(b[variable])
