"""Plans of flat fields, throughput and photometry."""
