"""From a photo to its faces: the detectors, their nets, and the search over a whole photo."""
