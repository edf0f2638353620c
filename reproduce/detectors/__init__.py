"""The detectors' nets, built from the weights that others published."""
