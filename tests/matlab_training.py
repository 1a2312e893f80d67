"""A linear network under its MATLAB names, and images to train it on."""

import numpy as np
from matlab_layer import random

from grouped_conv_jax.matlab import (
    classificationLayer,
    fullyConnectedLayer,
    imageInputLayer,
    softmaxLayer,
)

IMAGES = random(20, 2, 3, 1)
LABELS = np.array(["b", "a", "c", "a"] * 5)
WEIGHTS = random(3, 6, seed=1)
QUIET = {"Verbose": False, "MiniBatchSize": 8}


def linear(**properties):
    return [
        imageInputLayer([2, 3, 1], Normalization="none"),
        fullyConnectedLayer(3, **{"Weights": WEIGHTS, "Bias": np.zeros((3, 1))} | properties),
        softmaxLayer,
        classificationLayer,
    ]
