"""World coordinates: gwcs objects built from references, lowered to pure functions, inverted.

``spec2fn.wcs.assign`` makes the gwcs of an exposure, ``spec2fn.wcs.lower`` turns any gwcs or
astropy model into a function of arrays, ``spec2fn.wcs.invert`` inverts such functions.
"""
