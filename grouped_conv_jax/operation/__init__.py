"""The operation, in the order in which a call passes through its modules.

1. ``_functional`` and ``_drop_in`` are the public functions; ``_call`` checks options and puts
   padding, layout and bias around ``jax.lax``'s convolution, which ``_marks`` marks.
2. ``_lowering`` is JAX's lowering rule for marked convolutions. ``_matching`` finds which role of
   which grouped convolution an equation is, as ``_description`` describes it.
3. ``_choice`` chooses an implementation and says why; ``explain`` (``_explain``) reports that.
4. ``sharding`` splits the work over devices, and ``_execution`` runs one of ``implementations``.

``_jax_internals`` holds every interface of JAX that is not public.
"""
