"""The weighted sum of a supernet's edges as one wider convolution."""
