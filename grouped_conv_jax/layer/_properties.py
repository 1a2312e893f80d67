"""The read-only properties of the layers."""

from grouped_conv_jax.layer._hyperparameters import Hyperparameters


class ReadOnlyProperties:
    """Properties that follow from a layer's hyperparameters."""

    hyperparameters: Hyperparameters

    @property
    def num_inputs(self) -> int:
        """Number of inputs: one."""
        return 1

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return ("in",)

    @property
    def num_outputs(self) -> int:
        """Number of outputs: one."""
        return 1

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return ("out",)

    @property
    def factors_of_learnables(self) -> tuple[tuple[str, float, float], ...]:
        """The name, the learning-rate factor and the L2 factor of each learnable."""
        layer = self.hyperparameters
        weights = ("weights", layer.weight_learn_rate_factor, layer.weight_l2_factor)
        bias = ("bias", layer.bias_learn_rate_factor, layer.bias_l2_factor)
        return (weights, bias) if layer.use_bias else (weights,)

    @property
    def padding_mode(self) -> str:
        """``"manual"``, ``"same"`` or ``"causal"``."""
        return self.hyperparameters.options.padding.mode

    @property
    def padding_size(self) -> tuple[int, ...]:
        """Pixels (before, after) along each axis; (top, bottom, left, right) for two axes.

        Zeros if ``padding`` is a word, whose sizes depend on the input.
        """
        return self.hyperparameters.options.padding.size
