"""Plans of spectra: apertures, profiles, aperture corrections."""
