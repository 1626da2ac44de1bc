"""Host-side geometry: everything that sorts, searches, labels or inverts, computed once.

A plan is a frozen dataclass deriving from :class:`spec2fn.plan_base.Plan`. Its arrays become
arguments of compiled code and its other fields static structure.
"""
