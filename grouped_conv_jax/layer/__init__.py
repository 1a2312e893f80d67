"""Code shared by the Linen and NNX layers: arguments, hyperparameters, and Flax's ``Conv``."""
