"""Every kind of product through the readers and writers of others, and back."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.units import UnitConversionError
from stdatamodels.jwst.transforms.models import NirissSOSSModel

from spec2fn.demo.run import DEMOS
from spec2fn.io import open_product, save
from spec2fn.io.fits.slit_layout import ordered_wcs
from spec2fn.slits import Slits
from tests.robustness.conftest import difference, parts


def through_stdatamodels(path, folder):
    datamodels = pytest.importorskip("stdatamodels.jwst.datamodels")
    with datamodels.open(path) as model:
        model.validate()
        made = folder / "again.fits"
        model.save(made)
    with datamodels.open(made) as again:
        assert type(again) is type(model)
        again.validate()
    return made


def through_astropy(path, folder):
    made = folder / "again.fits"
    with fits.open(path) as hdus:
        hdus.verify("exception")
        hdus.writeto(made)
    return made


def gwcs_of(product):
    """The gwcs of an image or cube, of each slit, or of each spectrum."""
    if isinstance(product, Slits):
        return dict(enumerate(ordered_wcs(product)))
    wcs = product.attrs["meta"].wcs
    return dict(wcs) if isinstance(wcs, dict) else {} if wcs is None else {"": wcs}


def same_wcs(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name, one in ours.items():
        gwcs = one.load()
        if gwcs is None:  # simulated cut-outs have none
            assert theirs[name].load() is None
            continue
        for place in (3.0, 20.0):  # the grisms of NIRCam take no arrays
            at = (place,) * gwcs.forward_transform.n_inputs
            if isinstance(gwcs.forward_transform, NirissSOSSModel):
                for order in (1.0, 2.0, 3.0):
                    where = (place, place, order)
                    told = theirs[name].forward_transform(*where)
                    np.testing.assert_array_equal(told, gwcs.forward_transform(*where))
                    assert np.isfinite(told).all()
                # officially as here: gwcs adds the unit of its two axes to what has no parameters
                with pytest.raises(UnitConversionError):
                    gwcs(*where)
                continue
            np.testing.assert_array_equal(theirs[name](*at), gwcs(*at))


@pytest.mark.slow
@pytest.mark.parametrize("way", [through_stdatamodels, through_astropy])
@pytest.mark.parametrize("mode", DEMOS)
def test_every_product_is_written_again_by_others(case, tmp_path, mode, way):
    made = 0
    for kind, product in case(mode).usual.products.items():
        for name, one in (parts(product) if hasattr(product, "cubes") else {"": product}).items():
            folder = tmp_path / f"{kind}{name}"
            folder.mkdir()
            path = save(one, folder / "first.fits")
            first, again = open_product(path), open_product(way(path, folder))
            if way is through_stdatamodels and kind.startswith("x1d"):
                # it keeps the columns of its schemas
                first = first.drop_vars("flux_error_cov")
            assert difference({kind: again}, {kind: first}) is None
            same_wcs(gwcs_of(first), gwcs_of(again))
            made += 1
    assert made >= 2
