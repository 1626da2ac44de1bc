"""The keywords that stage 2 adds to a JWST product, and where they stand in its headers.

Names, wording and order are those of the JWST keyword dictionary
(https://mast.stsci.edu/portal/Mashup/Clients/jwkeywords/), which archives and readers rely on.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = [
    "ALWAYS_RECORDED",
    "ASSOCIATION_KEYWORDS",
    "CRDS_KEYWORDS",
    "ONLY_IF_USED",
    "ONLY_MSA",
    "PHOTOMETRY",
    "RECORDED_OF_KIND",
    "RECORDED_WITH",
    "REFERENCE_KEYWORDS",
    "REFERENCE_POINT",
    "RESAMPLE_KEYWORDS",
    "SCIENCE_ORDER",
    "SLIT_KEYWORDS",
    "SLIT_SECTIONS",
    "SPECTRUM_KEYWORDS",
    "STEP_KEYWORDS",
    "UNRECORDED",
    "UNRECORDED_OFF",
]

# record -> (keyword, comment)
CRDS_KEYWORDS: Mapping[str, tuple[str, str]] = {
    "crds_version": ("CRDS_VER", "Version of CRDS file selection software used"),
    "crds_context": ("CRDS_CTX", "CRDS context (.pmap) used to select ref files"),
}
ASSOCIATION_KEYWORDS: Mapping[str, tuple[str, str]] = {
    "asn_pool": ("ASNPOOL", "Name of the ASN pool"),
    "asn_table": ("ASNTABLE", "Name of the ASN table"),
}

# reference type -> (keyword, comment), in the order of a product's header
REFERENCE_KEYWORDS: Mapping[str, tuple[str, str]] = {
    "area": ("R_AREA", "Pixel area reference file name"),
    "bkg": ("R_BKG", "Background reference file name"),
    "msaoper": ("R_MSAOPE", "MSA operability reference file name"),
    "barshadow": ("R_BARSHA", "NIRSpec bar shadow reference file name"),
    "camera": ("R_CAMERA", "Nirspec Camera reference file name"),
    "chromcorr": ("R_CHRCOR", "Nirspec chromaticity correction reference file name"),
    "collimator": ("R_COLLIM", "Nirspec Collimator reference file name"),
    "sirskernel": ("R_SIRSKL", "SIRS refpix reference file name"),
    "cubepar": ("R_CUBPAR", "IFU cube parameters reference file name"),
    "dark": ("R_DARK", "Dark reference file name"),
    "disperser": ("R_DISPER", "Disperser reference file name"),
    "distortion": ("R_DISTOR", "Distortion reference file name"),
    "emicorr": ("R_MIREMI", "MIRI EMI correction reference file name"),
    "extract1d": ("R_EXTR1D", "1-D extraction parameters reference file name"),
    "filteroffset": ("R_FILOFF", "Filter Offset reference file name"),
    "flat": ("R_FLAT", "Flat reference file name"),
    "dflat": ("R_DFLAT", "Detector Flat reference file name"),
    "fflat": ("R_FFLAT", "Fore-optics Flat reference file name"),
    "sflat": ("R_SFLAT", "Spectrograph Flat reference file name"),
    "fore": ("R_FORE", "Nirspec FORE Model reference file name"),
    "fpa": ("R_FPA", "Nirspec FPA Model reference file name"),
    "fringe": ("R_FRINGE", "Fringe reference file name"),
    "fringefreq": ("R_FRIFRQ", "MRS Fringe Frequency reference file name"),
    "gain": ("R_GAIN", "Gain reference file name"),
    "ifufore": ("R_IFUFOR", "ifufore reference file name"),
    "ifupost": ("R_IFUPOS", "ifupost reference file name"),
    "ifuslicer": ("R_IFUSLI", "ifuslicer reference file name"),
    "ipc": ("R_IPC", "IPC reference file name"),
    "lastframe": ("R_LASTFR", "Last Frame reference file name"),
    "linearity": ("R_LINEAR", "Linearity reference file name"),
    "mask": ("R_MASK", "Mask reference file name"),
    "msa": ("R_MSA", "Nirspec MSA Model reference file name"),
    "mrsxartcorr": ("R_MRSXAR", "MRS Cross-Artifact Correction ref file name"),
    "mrsptcorr": ("R_MRSPT", "MRS point source correction reference file name"),
    "ote": ("R_OTE", "Nirspec OTE Model reference file name"),
    "pastasoss": ("R_PSTSOS", "PASTASOSS reference file name"),
    "pathloss": ("R_PTHLOS", "Pathloss reference file name"),
    "persat": ("R_PERSAT", "Persistence saturation reference file name"),
    "photom": ("R_PHOTOM", "Photometric reference file name"),
    "readnoise": ("R_READNO", "Read noise reference file name"),
    "refpix": ("R_REFPIX", "Reference pixels reference file name"),
    "regions": ("R_REGION", "Regions reference file name"),
    "resample": ("R_RESAMP", "Resample parameters reference file name"),
    "resolution": ("R_RESOL", "MRS resolution reference file name"),
    "reset": ("R_RESET", "Reset reference file name"),
    "rscd": ("R_RSCD", "RSCD reference file name"),
    "saturation": ("R_SATURA", "Saturation reference file name"),
    "speckernel": ("R_SPKERN", "Spectral convolution kernel reference file name"),
    "specprofile": ("R_SPPROF", "Spectral profile reference file name"),
    "spectrace": ("R_SPTRAC", "Spectral trace reference file name"),
    "specwcs": ("R_SPCWCS", "Spectral distortion reference file name"),
    "straylight": ("R_STRAY", "MRS Straylight reference file name"),
    "superbias": ("R_SUPERB", "Superbias reference file name"),
    "throughput": ("R_THRPUT", "Filter throughput reference file name"),
    "trapdensity": ("R_TRPDEN", "Trap density reference file name"),
    "trappars": ("R_TRPPAR", "Trap parameters reference file name"),
    "v2v3": ("R_V2V3", "V2_V3 Model reference file name"),
    "wavecorr": ("R_WAVCOR", "Zero point wavelength correction reference file name"),
    "wavelengthrange": ("R_WAVRAN", "Wavelength Range reference file name"),
    "wavemap": ("R_WAVMAP", "Wavelength map reference file name"),
}

ONLY_IF_USED = ("pastasoss", "speckernel", "specprofile")
"""Reference types whose keyword only those products have that were made with one."""

# step (ours; of stage 1 the keyword's) -> (keyword, comment), in the order of a product's header
STEP_KEYWORDS: Mapping[str, tuple[str, str]] = {
    "adaptive_trace_model": ("S_TRCMOD", "Adaptive Trace Model"),
    "assign_wcs": ("S_WCS", "Assign World Coordinate System"),
    "assign_mtwcs": ("S_MTWCS", "Assign Moving Target World Coordinate System"),
    "background": ("S_BKDSUB", "Background subtraction"),
    "badpix_selfcal": ("S_BPXSLF", "Bad Pixel Self-Calibration"),
    "barshadow": ("S_BARSHA", "NIRSpec bar shadow correction"),
    "charge_migration": ("S_CHGMIG", "Charge Migration"),
    "clean_flicker_noise": ("S_CLNFNS", "Clean Flicker Noise"),
    "combine_1d": ("S_COMB1D", "1-D Spectral Combination"),
    "cube_build": ("S_IFUCUB", "IFU Cube Creation"),
    "dark_current": ("S_DARK", "Dark Subtraction"),
    "dq_init": ("S_DQINIT", "Data Quality Initialization"),
    "emicorr": ("S_MIREMI", "MIRI EMI Correction"),
    "extract_1d": ("S_EXTR1D", "1-D Spectral Extraction"),
    "extract_2d": ("S_EXTR2D", "2-D Spectral Extraction"),
    "firstframe": ("S_FRSTFR", "First Frame Correction"),
    "flat_field": ("S_FLAT", "Flat Field Correction"),
    "fringe": ("S_FRINGE", "Fringe Correction"),
    "gain_scale": ("S_GANSCL", "Gain Scale Correction"),
    "group_scale": ("S_GRPSCL", "Group Scale Correction"),
    "imprint": ("S_IMPRNT", "NIRSpec MSA Imprint Subtraction"),
    "ipc": ("S_IPC", "Interpixel Capacitance Correction"),
    "jump": ("S_JUMP", "Jump Detection"),
    "lastframe": ("S_LASTFR", "Last Frame Correction"),
    "linearity": ("S_LINEAR", "Linearity Correction"),
    "master_background": ("S_MSBSUB", "Master Background Subtraction"),
    "msaflagopen": ("S_MSAFLG", "NIRSpec MSA Stuck Shutter Flagging"),
    "outlier_detection": ("S_OUTLIR", "Outlier Detection"),
    "pathloss": ("S_PTHLOS", "Pathloss Correction"),
    "persistence": ("S_PERSIS", "Persistence Correction"),
    "photom": ("S_PHOTOM", "Photometric Calibration"),
    "picture_frame": ("S_PCTFRM", "Picture Frame Correction"),
    "pixel_replace": ("S_PXREPL", "Pixel Replacement"),
    "ramp_fit": ("S_RAMP", "Ramp Fitting"),
    "refpix": ("S_REFPIX", "Reference Pixel Correction"),
    "resample_spec": ("S_RESAMP", "Image resampling"),
    "residual_fringe": ("S_RESFRI", "Residual Fringe Correction"),
    "reset": ("S_RESET", "Reset Anomaly Correction"),
    "rscd": ("S_RSCD", "RSCD Correction"),
    "saturation": ("S_SATURA", "Saturation Checking"),
    "spectral_leak": ("S_SPLEAK", "MRS spectral leak"),
    "srctype": ("S_SRCTYP", "Source Type Determination"),
    "straylight": ("S_STRAY", "Straylight Correction"),
    "superbias": ("S_SUPERB", "Superbias Subtraction"),
    "targ_centroid": ("S_TACNTR", "Target Acquisition Centering"),
    "wavecorr": ("S_WAVCOR", "NIRSpec wavelength correction"),
    "wfss_contam": ("S_CONTAM", "WFSS Contamination Correction"),
    "white_light": ("S_WHTLIT", "TSO White-Light Curve"),
}

ALWAYS_RECORDED = (
    "background", "badpix_selfcal", "barshadow", "clean_flicker_noise", "flat_field", "fringe",
    "imprint", "msaflagopen", "pathloss", "photom", "residual_fringe", "srctype", "straylight",
    "targ_centroid", "wfss_contam",
)  # fmt: skip
"""Steps whose keyword every calibrated product has, SKIPPED where the mode lacks the step."""

UNRECORDED: Mapping[str, tuple[str, ...]] = {
    "MIRI": ("wfss_contam",),
    "NIRISS orders": ("wfss_contam",),
    "MIRI traces": ("barshadow", "fringe", "residual_fringe", "straylight", "targ_centroid"),
    "NIRCAM": ("residual_fringe", "targ_centroid"),
    "NIRISS": ("residual_fringe", "targ_centroid"),
    "NIRSPEC": ("wfss_contam",),
    "NIRSPEC slits": ("fringe", "residual_fringe", "straylight", "targ_centroid"),
    "NIRSPEC lamp": ("fringe", "residual_fringe", "straylight", "targ_centroid"),
}
"""Steps of :data:`ALWAYS_RECORDED` that products of an instrument (and layout, or with its lamps)
do not mention."""

UNRECORDED_OFF = ("master_background", "resample_spec")
"""Steps that official products do not mention when they were switched off."""

RECORDED_WITH: Mapping[str, tuple[str, ...]] = {
    "photom": ALWAYS_RECORDED,
    "pixel_replace": ("adaptive_trace_model",),
}
"""Once a product has gone past a step, these are recorded as SKIPPED unless they ran."""

RECORDED_OF_KIND: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # whose images are finished when they have not been through photom
    "orders": {"pathloss": tuple(name for name in ALWAYS_RECORDED if name != "photom")},
    # which have no photometry
    "lamp": {"wavecorr": (*ALWAYS_RECORDED, "extract_2d")},
}
"""The same for exposures of a layout, and of lamps."""

# attribute -> (keyword, comment)
RESAMPLE_KEYWORDS: Mapping[str, tuple[str, str]] = {
    "resample_ndriz": ("NDRIZ", "Number of groups/pointings included in resampled product"),
    "resample_weight_type": ("RESWHT", "Type of drizzle weighting to use in resampling input"),
    "resample_pixfrac": ("PIXFRAC", "Drizzle parameter describing pixel shrinking"),
    "resample_pixel_scale_ratio": (
        "PXSCLRT",
        "Pixel scale ratio relative to native detector scale",
    ),
}

# keyword of the SCI header of one of several slits -> (variable on ``slit``, comment)
SLIT_KEYWORDS: Mapping[str, tuple[str, str]] = {
    "SLTNAME": ("slit_name", "Slit name"),
    "SLTSTRT1": ("xstart", "Slit starting pixel index along axis 1"),
    "SLTSIZE1": ("xsize", "Slit size along axis 1"),
    "SLTSTRT2": ("ystart", "Slit starting pixel index along axis 2"),
    "SLTSIZE2": ("ysize", "Slit size along axis 2"),
    "SLITID": ("slitlet_id", "Slitlet ID"),
    "SHUTTRID": ("shutter_id", "Shutter ID"),
    "SOURCEID": ("source_id", "Source ID number"),
    "SRCNAME": ("source_name", "Source name"),
    "SRCALIAS": ("source_alias", "Source alias"),
    "STLARITY": ("stellarity", "Source stellarity"),
    "SRCTYPE": ("source_type", "Source type used for calibration"),
    "TA_XPOS": ("ta_xpos", "Source x-position in TA verification image"),
    "TA_YPOS": ("ta_ypos", "Source y-position in TA verification image"),
    "SRCXPOS": ("source_xpos", "Source position in slit (x-axis)"),
    "SRCYPOS": ("source_ypos", "Source position in slit (y-axis)"),
    "SHUTSTA": ("shutter_state", "Status of all shutters in the slitlet"),
    "MSAQUAD": ("quadrant", "MSA quadrant for slit"),
    "SRCRA": ("source_ra", "Right Ascension of the source"),
    "SRCDEC": ("source_dec", "Declination of the source"),
    "SLTXSCL": ("slit_xscale", "Scale open to full MSA slit coordinates (X dir)"),
    "SLTYSCL": ("slit_yscale", "Scale open to full MSA slit coordinates (Y dir)"),
    "WAVECOR": ("wavelength_corrected", "Wavelength corrected (T/F)"),
    "PTHLOSS": ("pathloss_correction_type", "Type of pathloss correction applied"),
    "BARSHDW": ("barshadow_corrected", "Barshadow corrected (T/F)"),
}

REFERENCE_POINT: Mapping[str, str] = {"xref_sci": "XREF_SCI", "yref_sci": "YREF_SCI"}
"""Variables of a cut-out of a time series by the keywords that say where its source is, from 1."""

ONLY_MSA = (
    "SLITID", "SRCNAME", "SRCALIAS", "STLARITY", "SHUTSTA", "MSAQUAD", "SRCRA", "SRCDEC",
    "SLTXSCL", "SLTYSCL",
)  # fmt: skip
"""Keywords of slitlets, which the micro-shutter array has and fixed slits do not."""

PHOTOMETRY = ("photmjsr", "photuja2", "pixar_sr", "pixar_a2")
"""Variables that differ from slit to slit."""

# keyword -> (comment, title of its section): a keyword that the input lacks goes behind the one
# before it in this list that is present
SCIENCE_ORDER: Mapping[str, tuple[str, str]] = {
    "EXTNAME": ("extension name", ""),
    "SRCTYPE": ("Source type used for calibration", ""),
    "MJD-BEG": ("[d] exposure start time in MJD", ""),
    "XPOSURE": ("[s] Effective exposure time", ""),
    "TELAPSE": ("[s] Total elapsed exposure time", ""),
    "PA_APER": ("[deg] Position angle of aperture used", ""),
    "VA_SCALE": ("Velocity aberration scale factor", ""),
    "BUNIT": ("physical units of the array values", ""),
    "PHOTMJSR": ("Flux density (MJy/steradian) producing 1 cps", "Photometry information"),
    "PHOTUJA2": ("Flux density (uJy/arcsec2) producing 1 cps", "Photometry information"),
    "PIXAR_SR": ("Nominal pixel area in steradians", "Photometry information"),
    "PIXAR_A2": ("Nominal pixel area in arcsec^2", "Photometry information"),
    "PA_V3": ("[deg] Position angle of telescope V3 axis", ""),
    "CDELT3": ("Axis 3 coordinate increment at reference point", ""),
    "PC2_2": ("Linear transformation matrix element", ""),
    "PC3_2": ("Linear transformation matrix element", ""),
    "S_REGION": ("Spatial footprint of the observation", "WCS parameters"),
    "WAVSTART": ("Lower bound of the default wavelength range", "WCS parameters"),
    "WAVEND": ("Upper bound of the default wavelength range", "WCS parameters"),
    "DISPAXIS": ("Dispersion direction", "WCS parameters"),
    "SPORDER": ("Spectral order number", "WCS parameters"),
    "ROLL_REF": ("[deg] V3 roll angle at the ref point (N over E)", ""),
    "VELOSYS": ("[m/s] Barycentric correction to radial velocity", ""),
    "SPECSYS": ("Spectral reference frame", "WCS parameters"),
    "XREF_SCI": ("Aperture X reference point in SCI frame", "WCS parameters"),
    "YREF_SCI": ("Aperture Y reference point in SCI frame", "WCS parameters"),
    "EXTVER": ("extension value", ""),
    **{
        keyword: (comment, "")
        for keyword, (_, comment) in SLIT_KEYWORDS.items()
        if keyword in ("SRCNAME", "SRCALIAS") or keyword not in (*ONLY_MSA, "SRCTYPE", "BARSHDW")
    },
}

# title -> keywords of an exposure that every slit repeats, in their order
SLIT_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Photometry information": ("PHOTMJSR", "PHOTUJA2", "PIXAR_SR", "PIXAR_A2"),
    "Coordinate reference": ("RADESYS",),
    "Aperture information": ("PA_APER",),
    "Spacecraft pointing information": ("RA_V1", "DEC_V1", "PA_V3"),
    "Velocity aberration correction information": ("VA_SCALE",),
    "WCS parameters": (
        "WCSAXES", "CRPIX1", "CRPIX2", "CRPIX3", "CRVAL1", "CRVAL2", "CRVAL3", "CTYPE1", "CTYPE2",
        "CTYPE3", "CUNIT1", "CUNIT2", "CUNIT3", "CDELT1", "CDELT2", "CDELT3", "PC1_1", "PC1_2",
        "PC1_3", "PC2_1", "PC2_2", "PC2_3", "PC3_1", "PC3_2", "PC3_3", "CD1_1", "CD1_2", "CD2_1",
        "CD2_2", "PS3_0", "PS3_1", "S_REGION", "WAVSTART", "WAVEND", "DISPAXIS", "SPORDER",
        "V2_REF", "V3_REF", "VPARITY", "V3I_YANG", "RA_REF", "DEC_REF", "ROLL_REF", "VELOSYS",
        "SPECSYS", "XREF_SCI", "YREF_SCI", "MT_RA", "MT_DEC", "MT_AVRA", "MT_AVDEC",
    ),
}  # fmt: skip


def _of_slit(*keywords: str) -> dict[str, str]:
    return {k: SLIT_KEYWORDS[k][1] for k in keywords}


# keyword of an EXTRACT1D header -> comment; the variable on ``spectrum`` has its lower case name
SPECTRUM_KEYWORDS: Mapping[str, str] = {
    **_of_slit(
        "SLTNAME", "SLITID", "SOURCEID", "SRCNAME", "SRCALIAS", "STLARITY", "SRCTYPE", "TA_XPOS",
        "TA_YPOS", "SRCXPOS", "SRCYPOS", "SRCRA", "SRCDEC",
    ),
    "EXTR_X": "X center of extraction region",
    "EXTR_Y": "Y center of extraction region",
    "EXTRXSTR": "X axis start of extraction region",
    "EXTRXSTP": "X axis end of extraction region",
    "EXTRYSTR": "Y axis start of extraction region",
    "EXTRYSTP": "Y axis end of extraction region",
    "SHUTSTA": "All (open and close) shutters in a slit",
    "SLIT_RA": "[deg] Right Ascension at middle of slit",
    "SLIT_DEC": "[deg] Declination at middle of slit",
    **_of_slit("MSAQUAD", "SLTXSCL", "SLTYSCL"),
    "SPORDER": SCIENCE_ORDER["SPORDER"][0],
    "INT_NUM": "Integration number",
    "DISPAXIS": SCIENCE_ORDER["DISPAXIS"][0],
    "DETECTOR": "Name of detector used to acquire the data",
    **_of_slit("WAVECOR", "PTHLOSS", "BARSHDW"),
    "PA_APER": SCIENCE_ORDER["PA_APER"][0],
}  # fmt: skip
