"""Batch-norm without affine parameters."""
