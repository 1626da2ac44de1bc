"""Steps: one pure function ``Dataset -> Dataset`` per module, of the same name."""
