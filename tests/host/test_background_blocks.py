"""Scales of the background of overlapping orders: single pixels, and means of blocks."""

import numpy as np
import pytest

from spec2fn.forward import render
from spec2fn.forward.niriss.instrument import Strip
from spec2fn.forward.niriss.render import SKY, TEMPLATE
from spec2fn.host.background_templates import best_template

LIMITS = {"source_percentile": 35.0, "background_percentiles": (25.0, 50.0)}


@pytest.fixture(scope="module")
def exposed():
    rendered = render("NIS_SOSS", 1, 4, strip=Strip("SUBSTRIP256", 256, columns=1024))
    sci = rendered.science["sci"].values
    return sci, np.isfinite(sci), rendered.references["bkg"]["sci"].values.astype("f4")


def test_means_of_blocks_are_unbiased_where_single_pixels_are_too_low(exposed):
    single, blocks = (best_template(*exposed, **LIMITS, block=b) for b in (1, 8))
    library = exposed[2]
    middle = [np.s_[:, 300], np.s_[:, 900]]
    sky = [scale * library[TEMPLATE][m].mean() for scale, m in zip(SKY, middle, strict=True)]
    found = [
        scale * library[blocks.template][m].mean()
        for scale, m in zip(blocks.scales, middle, strict=True)
    ]
    np.testing.assert_allclose(found, sky, rtol=0.02)
    # all faint pixels are on the left, and those with the lowest noise
    assert single is None or single.scales[0] < SKY[0] - 0.1


def test_with_next_to_no_noise_both_are_the_same():
    library = np.linspace(1.0, 1.2, 900) * np.ones((1, 64, 1))
    data = 2.0 * library * (1.0 + 1e-9 * np.random.default_rng(0).standard_normal(library.shape))
    good = np.ones(data.shape, bool)
    good[0, 5, 300:310] = False
    limits = LIMITS | {"source_percentile": 99.0}
    for block in (1, 8, 7):
        found = best_template(data, good, library, **limits, block=block)
        np.testing.assert_allclose(found.scales, 2.0, rtol=1e-8)


def test_blocks_without_enough_pixels_do_not_count(exposed):
    sci, good, library = exposed
    some = good & (np.random.default_rng(0).random(sci.shape[1:]) < 0.3)
    assert best_template(sci, some, library, **LIMITS, block=8) is None
