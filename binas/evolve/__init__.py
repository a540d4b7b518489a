"""Evolution over what a fixed topology leaves open: widths of layers, groups of convolutions."""
