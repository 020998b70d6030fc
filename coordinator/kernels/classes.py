"""Rows of each class: what balanced class weights are made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from coordinator.tasks import Arrays, Work, kernel


@kernel("data.classes")
def class_rows(work: Work, *, n: int, text: bool, classes: list[Any]) -> Arrays:
    """Rows of each of `n` classes in the task's blocks; targets are positions where classes are text."""
    values = np.arange(n) if text else np.asarray(classes, dtype=np.float64)
    counts = np.zeros(n)
    for _, block in work.blocks():
        counts += np.bincount(np.searchsorted(values, block.y), minlength=n)
    return (counts,)
