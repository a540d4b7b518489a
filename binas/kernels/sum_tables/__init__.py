"""Gradients of ±1 convolutions, looked up in tables of sums."""
