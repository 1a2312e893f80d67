"""Layers with factors of their own, and the factors of others: (learning rate, L2) by learnable."""

WEIGHTS, BIAS = (0.5, 3.0), (0.25, 7.0)
OWN = {"weights": WEIGHTS, "bias": BIAS}
DEFAULT = {"weights": (1.0, 1.0), "bias": (1.0, 0.0)}
DENSE = {"kernel": (1.0, 1.0), "bias": (1.0, 0.0)}
FACTORS = {
    "weight_learn_rate_factor": 0.5,
    "bias_learn_rate_factor": 0.25,
    "weight_l2_factor": 3.0,
    "bias_l2_factor": 7.0,
}
OPTIONS = {"padding": "same"} | FACTORS
