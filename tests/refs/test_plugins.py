"""Opening ASDF files without unrelated plugins."""

import subprocess
import sys

import pytest

CODE = """
import sys
import asdf
from spec2fn.refs.plugins import light_asdf
with light_asdf():
    first = [e.package_name for e in asdf.get_config().extensions]
    assert asdf.get_config().resource_manager is not None
assert not {"ndcube", "specutils", "stpipe"} & {m.split(".")[0] for m in sys.modules}
with light_asdf():
    assert [e.package_name for e in asdf.get_config().extensions] == first
import yaml
from asdf.extension import _manifest
assert _manifest.yaml is yaml
assert "stdatamodels" in first and "gwcs" in first
outside = {e.package_name for e in asdf.get_config().extensions}
assert set(first) <= outside
with light_asdf():
    assert {e.package_name for e in asdf.get_config().extensions} == outside
"""


def test_unrelated_packages_stay_unimported():
    pytest.importorskip("stdatamodels")
    subprocess.run([sys.executable, "-c", CODE], check=True)
