"""What the layers of Linen and NNX share: arguments, hyperparameters, and Flax's ``Conv``."""
