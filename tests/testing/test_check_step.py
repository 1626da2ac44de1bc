"""check_step passes steps that keep the contract, and says what is broken by those that do not."""

import jax.numpy as jnp
import numpy as np
import pytest

import spec2fn
from spec2fn.engine.step import Skip
from spec2fn.errors import ContractError
from spec2fn.steps.flat_field import flat_field
from spec2fn.testing import check_step, exposures

SERIES = "NRS_BRIGHTOBJ"


@pytest.fixture(scope="module")
def ds():
    """Integrations as they come from the countrates."""
    return exposures.step_input("extract_2d", SERIES).dataset.load()


@pytest.fixture(scope="module")
def slits():
    return exposures.step_input("flat_field", SERIES)


def scaled(ds, factor):
    return ds.assign({n: ds[n] * np.float32(factor) for n in ("sci", "err")})


@spec2fn.step(traceable=True)
def doubled(ds):
    return scaled(ds, 2)


def test_a_step_of_the_library_and_one_of_a_user_pass(ds, slits):
    check_step(doubled, ds)
    check_step(flat_field, slits.dataset, *slits.references.values(), examples=1)


def test_a_plain_function_is_a_step(ds):
    check_step(lambda ds: scaled(ds, 3), ds)


def in_place(ds):
    ds["sci"] = ds["sci"] * 2
    return ds


def without_flags(ds):
    data = ds["sci"].values.copy()
    data[..., 5, 5] = np.nan
    return ds.assign(sci=(ds["sci"].dims, data))


def in_double(ds):
    return ds.assign({n: ds[n].astype("f8") for n in ("sci", "err")})


def hiding(ds):
    return spec2fn.schema.with_status(scaled(ds, 2), "assign_wcs", "SKIPPED: by me")


def forgetting(ds):
    return ds.drop_vars("sci") if "no" in ds.attrs else Skip("")


calls = []


def remembering(ds):
    calls.append(1)
    return scaled(ds, len(calls))


def across(ds):
    mean = ds["sci"].mean("integration")
    return scaled(ds, 1).assign(sci=(ds["sci"] - mean).transpose(*ds["sci"].dims))


@spec2fn.step(traceable=True)
def other_when_traced(ds):
    from spec2fn.kernels.namespace import is_traced

    return scaled(ds, 3 if is_traced(ds["sci"].data) else 2)


@spec2fn.step(traceable=True)
def rooted(ds):
    xp = jnp if not isinstance(ds["sci"].data, np.ndarray) else np
    sci = ds["sci"].data
    root = xp.where(sci > 0, xp.sqrt(xp.where(sci > 0, sci, sci * 0)), sci)
    return ds.assign(sci=(ds["sci"].dims, root))


@pytest.mark.parametrize(
    ("step", "broken"),
    [
        (in_place, "modifies its input"),
        (without_flags, "sci and err are not NaN together"),
        (in_double, "sci is float64, needs float32"),
        (hiding, "changes the attribute status_assign_wcs"),
        (forgetting, "its status is 'SKIPPED: '"),
        (remembering, "gives another result"),
        (across, "integration 0 alone, sci differs"),
        (other_when_traced, "compiled, sci differs"),
        (rooted, "the gradient with respect to sci is not finite"),
    ],
)
def test_what_is_broken_is_said(step, broken, ds):
    with pytest.raises(ContractError, match=broken):
        check_step(step, ds)


def test_the_disturbance_is_named(ds):
    def only_finite(ds):
        values = ds["sci"].values
        return ds if np.isfinite(values).all() else in_double(ds)

    with pytest.raises(ContractError, match=r"disturbed with seed 1"):
        check_step(only_finite, ds)
