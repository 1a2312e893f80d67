"""Measures grouped convolutions: every role, against lax and PyTorch, on any device of JAX.

``suites`` are the convolutions, as data; ``harness`` measures one by one and ``training`` whole
training steps; ``results`` is what is kept of it, and ``report`` and ``plot`` show that.
"""
