"""Pipelines that have been planned, once for all tests."""

import functools

import pytest

import spec2fn
from spec2fn.testing import exposures


@functools.cache
def planned(exp_type):
    """The pipeline of a mode, planned for the smallest exposure that there is of it."""
    return spec2fn.compile(
        exposures.observation(exp_type),
        exposures.pipeline(exp_type),
        exposures.references(exp_type),
    )


@pytest.fixture(name="planned", scope="session")
def planned_fixture():
    return planned
