"""The operation, in the order in which a call passes through its modules.

1. ``_functional`` and ``_drop_in`` define the public functions. ``_options`` checks their keyword
   arguments, and ``_call`` adds padding, layout and bias to ``jax.lax``'s convolution, which
   ``_marks`` marks.
2. ``_lowering`` is JAX's lowering rule for marked convolutions. ``_equation`` reads the parameters
   of an equation, and ``_matching`` determines which role of which grouped convolution it is, as
   described by ``_description``.
3. ``_choice`` chooses an implementation and gives the reason, which ``_explain`` reports.
4. ``sharding`` splits the work over devices, and ``_execution`` runs one of ``implementations``.

``_jax_internals`` holds every interface of JAX that is not public.
"""
