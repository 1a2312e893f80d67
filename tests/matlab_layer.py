"""A layer under its MATLAB names, and what it is where nothing else is said."""

import numpy as np

from grouped_conv_jax.matlab import groupedConvolution2dLayer

WINDOWS = {"Stride": (1, 1), "PaddingMode": "manual", "PaddingSize": (0, 0, 0, 0)}
LEARNABLES = {
    "WeightsInitializer": "glorot",
    "BiasInitializer": "zeros",
    "Weights": None,
    "Bias": None,
    "WeightLearnRateFactor": 1,
    "BiasLearnRateFactor": 1,
    "WeightL2Factor": 1,
    "BiasL2Factor": 0,
}
DEFAULTS = {
    "Name": "",
    "FilterSize": (3, 3),
    "NumGroups": 2,
    "NumChannelsPerGroup": "auto",
    "NumFiltersPerGroup": 4,
    **WINDOWS,
    "DilationFactor": (1, 1),
    "PaddingValue": 0,
    **LEARNABLES,
    "NumInputs": 1,
    "InputNames": ("in",),
    "NumOutputs": 1,
    "OutputNames": ("out",),
}


def layer(*pairs, **properties):
    return groupedConvolution2dLayer(3, 4, 2, *pairs, **properties)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
