"""Algorithms on arrays of the host (NumPy, SciPy): searching, sorting, fitting, overlapping.

They know no Dataset; plans feed them and keep what they find.
"""
