"""Modes there is a demo of; a module of its own because the command line loads nothing else."""

from __future__ import annotations

__all__ = ["DEMOS"]

DEMOS = (
    "miri-lrs-slit",
    "miri-lrs-slitless",
    "miri-mrs",
    "nirspec-fs",
    "nirspec-bots",
    "nirspec-mos",
    "nirspec-ifu",
)
