"""A compiled pipeline does not grow with what it is for: it is traced once for each bucket."""

import pytest

import spec2fn
from spec2fn.testing import exposures


def planned(exp_type, params=None, **which):
    return spec2fn.compile(
        exposures.observation(exp_type, **which),
        exposures.pipeline(exp_type),
        exposures.references(exp_type),
        params=params,
    )


def shapes(compiled):
    """Slits and pixels of every bucket of the product."""
    return [(b.sizes["slit"], b["sci"].shape[1:]) for b in compiled.first.products["cal"].buckets]


@pytest.mark.parametrize("exp_type", ["NRS_BRIGHTOBJ", "NRC_TSGRISM"])
def test_integrations_need_no_equations(exp_type):
    few, many = (planned(exp_type, integrations=n) for n in (2, 7))
    assert few.equations == many.equations


def test_slits_in_a_bucket_need_no_equations():
    # slitlets for which references have the same tables
    counts, off = {}, {"master_background": {"skip": True}}  # which the third would switch on
    for names in (("1", "2"), ("1", "2", "3")):
        few = planned("NRS_MSASPEC", {**off, "extract_2d": {"slit_names": names}})
        assert [count for count, _ in shapes(few)] == [len(names)]
        counts[names] = few.equations
    assert len(set(counts.values())) == 1, counts
