"""``python -m grouped_conv_jax``, the same as ``grouped-conv-jax``."""

import sys

from grouped_conv_jax.commands import main

if __name__ == "__main__":
    sys.exit(main())
