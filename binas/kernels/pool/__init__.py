"""Pools of tensors with images innermost."""
