"""Benchmarks of grouped convolutions against lax and PyTorch, on any device of JAX.

``suites`` lists the convolutions. ``harness`` measures them role by role, and ``training`` measures
training steps of whole networks. ``results`` stores the measurements, which ``report`` and ``plot``
present.
"""
