"""Sketches, codes and random streams: the mathematics, with no clock, no I/O and no cloud."""

from sketches.averaging import Debiased, HessianAverage, debias
from sketches.codes import Arrays, Code, GroupQuorum, Quorum, Replication, Uncoded
from sketches.determinantal import (
    ROW_LAWS,
    Combined,
    combine,
    correction,
    draw_rows,
    effective_sample_size,
    estimates_needed,
    log_weights,
    mean_step,
    scaling,
)
from sketches.factor import Factor, factor
from sketches.operators import (
    SJLT,
    CountSketch,
    Gaussian,
    LessUniform,
    Rows,
    RowSampling,
    SketchDistribution,
    SparseSketch,
)
from sketches.oversketch import OverSketch
from sketches.product_code import ProductCode
from sketches.specs import SKETCHES, sketch_from_spec, to_spec
from sketches.streams import stream

__all__ = [
    "ROW_LAWS",
    "SJLT",
    "SKETCHES",
    "Arrays",
    "Code",
    "Combined",
    "CountSketch",
    "Debiased",
    "Factor",
    "Gaussian",
    "GroupQuorum",
    "HessianAverage",
    "LessUniform",
    "OverSketch",
    "ProductCode",
    "Quorum",
    "Replication",
    "RowSampling",
    "Rows",
    "SketchDistribution",
    "SparseSketch",
    "Uncoded",
    "combine",
    "correction",
    "debias",
    "draw_rows",
    "effective_sample_size",
    "estimates_needed",
    "factor",
    "log_weights",
    "mean_step",
    "scaling",
    "sketch_from_spec",
    "stream",
    "to_spec",
]
