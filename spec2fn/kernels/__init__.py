"""Array kernels: pure functions of arrays, for NumPy and JAX alike.

A kernel imports nothing of spec2fn but other kernels, takes and returns plain arrays, and works
on the trailing ``(y, x)`` axes so that integrations and slits broadcast in front of them.
"""
