"""Forward model: from a spectrum to detector count rates, and whole exposures with known truth.

* :mod:`spec2fn.forward.renderers`: exposures of a mode with their truth, and its renderers;
* :mod:`spec2fn.forward.operators`: linear operators spectrum → count rate, with their adjoints;
* :mod:`spec2fn.forward.lrs`, :mod:`~spec2fn.forward.mrs`, :mod:`~spec2fn.forward.nircam`,
  :mod:`~spec2fn.forward.niriss`, :mod:`~spec2fn.forward.nirspec`: the instruments the synthetic
  exposures are taken with, and the references that describe them;
* :mod:`spec2fn.forward.scenes`: what is on the sky;
* :mod:`spec2fn.forward.exposures`, :mod:`spec2fn.forward.reference_files`: headers, noise, files.
"""

from spec2fn.forward.operators import SpectralOperator, operator
from spec2fn.forward.rendered import Rendered
from spec2fn.forward.renderers import render

__all__ = ["Rendered", "SpectralOperator", "operator", "render"]
