"""The peer's NIRSpec products, read and written again by spec2fn.io, are the peer's products."""

import numpy as np
import pytest

from spec2fn.io import diff, open_product, write_product
from spec2fn.schema import meta_of
from spec2fn.slits import Slits

pytestmark = pytest.mark.parity

SUFFIXES = {
    "nrs_fs_g395h": ("extract_2d", "wavecorr", "cal", "s2d", "x1d"),
    "nrs_mos_prism": ("extract_2d", "cal", "s2d", "x1d"),
    "nrs_bots_g395h": ("extract_2d", "calints", "x1dints"),
}


def _paths(folder, suffixes):
    paths = [p for s in suffixes for p in sorted((folder / "steps").glob(f"*_{s}.fits"))]
    assert len(paths) == len(suffixes)
    return paths


@pytest.mark.parametrize("name", SUFFIXES)
def test_products_survive_reading_and_writing(scenario, tmp_path, name):
    from astropy.io import fits

    for path in _paths(scenario(name), SUFFIXES[name]):
        product = open_product(path)
        assert isinstance(product, Slits) == ("x1d" not in path.name)
        ours = write_product(product, tmp_path / path.name)
        report = diff(path, ours, rtol=0)
        assert report.same, str(report)
        # a step of another mode may be recorded as skipped one product earlier
        for keyword, (value, _) in report.files[0].keywords.items():
            assert keyword.startswith("S_"), str(report)
            assert value is None, str(report)
        with fits.open(path) as a, fits.open(ours) as b:
            assert [(h.name, h.ver) for h in a] == [(h.name, h.ver) for h in b]
            for theirs, mine in zip(a[1:-1], b[1:-1], strict=True):
                assert list(theirs.header) == list(mine.header), (path.name, theirs.name)


@pytest.mark.parametrize("name", SUFFIXES)
def test_models_and_wcs_are_the_peers(scenario, tmp_path, name):
    from stdatamodels.jwst import datamodels

    (path,) = _paths(scenario(name), ["calints" if "bots" in name else "cal"])
    ours = write_product(open_product(path), tmp_path / path.name)
    with datamodels.open(path) as theirs, datamodels.open(ours) as model:
        assert type(model) is type(theirs)
        model.validate()
        pairs = zip(
            getattr(theirs, "slits", [theirs]), getattr(model, "slits", [model]), strict=True
        )
        back = open_product(ours)
        for k, (a, b) in enumerate(pairs):
            ny, nx = a.data.shape[-2:]
            x, y = np.meshgrid(np.linspace(0, nx, 50), np.linspace(0, ny, 20))
            expected = a.meta.wcs(x, y)
            assert np.isfinite(expected[2]).any()
            np.testing.assert_array_equal(b.meta.wcs(x, y), expected)
            np.testing.assert_array_equal(meta_of(back.buckets[0]).wcs[k](x, y), expected)
            for keyword in ("name", "xstart", "ysize", "source_id", "source_type", "quadrant"):
                assert getattr(a, keyword) == getattr(b, keyword)
