"""The single-object slitless spectrograph of NIRISS that synthetic time series are taken with."""
