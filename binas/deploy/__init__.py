"""From a trained network to a 1-bit program: capture, passes, one file, back ends."""
