"""Associations of generated exposures without a whole run to compare: each finds all it needs."""

import json

import pytest

from spec2fn.calibration import prepare
from spec2fn.pipelines import MODES

pytestmark = [pytest.mark.parity, pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]

# those of a size that the generator makes in a minute
OTHERS = {
    "nrs_mos_prism_45": "NRS_MSASPEC",
    "niriss_wfss_gr150r": "NIS_WFSS",
    "niriss_wfss_gr150r_f115w": "NIS_WFSS",
    "niriss_wfss_fwcpos": "NIS_WFSS",
    "niriss_wfss_hard": "NIS_WFSS",
    "nircam_wfss_c": "NRC_WFSS",
    "nircam_wfss_modb": "NRC_WFSS",
    "niriss_soss_rate": "NIS_SOSS",
    "niriss_soss_sub96": "NIS_SOSS",
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_association_finds_all_it_needs(name, exposures):
    folder = exposures(name)
    scenario = json.loads((folder / "scenario.json").read_text())
    asn = json.loads((folder / scenario["asn"]).read_text())
    # with the official names of steps and parameters, as the scenario has them
    job = prepare(folder / scenario["asn"], params=scenario["steps"])
    assert job.mode == MODES[OTHERS[name]][0]
    assert job.name == asn["products"][0]["name"]
    assert job.missing == ()
    plan = job.plan()
    assert any(kind.startswith("cal") for kind in plan.products)
    roles = {m["exptype"] for m in asn["products"][0]["members"]} - {"science"}
    assert roles <= set(job.observation.members)
