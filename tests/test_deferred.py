"""A gwcs that is not made until it is used, and written from a template."""

import asdf
import numpy as np
import pytest
from astropy.modeling.models import Identity, Mapping, Scale, Shift, Tabular1D
from gwcs import WCS
from gwcs import coordinate_frames as frames

from spec2fn.deferred import DeferredWcs, as_deferred
from spec2fn.io.fits.asdf_tree import SHARED, TreeWriter, cut_slit
from spec2fn.io.fits.asdf_wcs import wcs_of_cut


def make(shift, size, points, values):
    place = Shift(shift) | Scale(size)
    swap = Mapping((1, 0))
    swap.inverse = swap
    table = Tabular1D(points=points, lookup_table=values, bounds_error=False, fill_value=None)
    model = swap | place & place | Identity(1) & table
    model.inverse = Identity(1) & table.inverse | place & place | swap  # any function will do
    detector, world = frames.Frame2D(name="detector"), frames.Frame2D(name="world")
    wcs = WCS([(detector, model), (world, None)])
    wcs.bounding_box = ((-0.5, size + 100), (-0.5, 30.5))
    return wcs


def numbers(k, *, descending=False):
    points = np.linspace(0.0, 1.0 + k, 30 + k)
    values = np.sqrt(points + k + 1.0)
    return 0.1 + k, 2.0 + k, points, values[::-1].copy() if descending else values


def as_shared(k, **kwargs):
    one = numbers(k, **kwargs)
    size = one[1] + 100  # stands in the gwcs as the edge of the box
    return DeferredWcs(
        lambda a, b, c, d, box: _with_box(make(a, b, c, d), box),
        (*one, size),
        ("kind", bool(kwargs.get("descending"))),
    )


def _with_box(wcs, edge):
    wcs.bounding_box = ((-0.5, edge), (-0.5, 30.5))
    return wcs


def test_nothing_is_made_before_it_is_used():
    made = []

    def build(*values):
        made.append(values)
        return make(*values)

    wcs = DeferredWcs(build, numbers(0))
    assert not made
    assert "not put together" in repr(wcs)
    assert wcs(1.0, 2.0) == make(*numbers(0))(1.0, 2.0)
    assert wcs.output_frame.name == "world"
    assert len(made) == 1


@pytest.mark.parametrize("descending", [False, True])
def test_templates_hold_the_numbers_of_each(descending):
    unmade = [as_shared(k, descending=descending) for k in range(12)]
    writer = TreeWriter("slits")
    for one in [*unmade, None, make(*numbers(3))]:
        writer.add(one)
    assert not any(w._wcs for w in unmade)
    content = writer.content("MultiSlitModel")
    assert SHARED.encode() in content
    x, y = np.meshgrid(np.linspace(-3, 40, 9), np.linspace(-2, 35, 7))
    for k in (0, 5, 11):
        alone, direct = wcs_of_cut(cut_slit(content, k)), unmade[k]
        np.testing.assert_array_equal(alone(x, y), direct(x, y))
        assert alone.bounding_box == direct.bounding_box
        there = direct(x, y, with_bounding_box=False)
        np.testing.assert_array_equal(
            alone.invert(*there, with_bounding_box=False),
            direct.invert(*there, with_bounding_box=False),
        )
    assert cut_slit(content, 12) == b""
    np.testing.assert_array_equal(wcs_of_cut(cut_slit(content, 13))(x, y), make(*numbers(3))(x, y))


def test_any_reader_reads_templates(tmp_path):
    writer = TreeWriter("slits")
    for k in range(4):
        writer.add(as_shared(k))
    path = tmp_path / "wcs.asdf"
    path.write_bytes(writer.content("MultiSlitModel"))
    with asdf.open(path, lazy_load=False, memmap=False) as file:
        read = [s["meta"]["wcs"] for s in file["slits"]]
    for k, wcs in enumerate(read):
        assert wcs(3.0, 4.0) == as_shared(k)(3.0, 4.0)


def test_numbers_that_do_not_stand_in_the_gwcs_are_no_template():
    # twice the number stands there: an exchange of the number itself would be lost
    unmade = [
        DeferredWcs(lambda s: make(2 * s, *numbers(0)[1:]), (0.3 + k,), "odd") for k in (0, 1)
    ]
    writer = TreeWriter("slits")
    for one in unmade:
        writer.add(one)
    content = writer.content("MultiSlitModel")
    for k in (0, 1):
        assert wcs_of_cut(cut_slit(content, k))(3.0, 4.0) == unmade[k](3.0, 4.0)


def test_elements_of_mappings():
    class Known(dict):
        def deferred(self, key):
            return f"unmade {key}"

    assert as_deferred(Known(a=1), "a") == "unmade a"
    assert as_deferred(Known(a=1), "b") is None
    assert as_deferred({"a": 1}, "a") == 1
