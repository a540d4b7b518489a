"""Batch-norm, sign, ±1 convolution and ReLU as one step of a trained network."""
