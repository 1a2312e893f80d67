"""One file an implementation, each in the canonical order of ``_convolution``."""
