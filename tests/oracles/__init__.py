"""Slow and obvious versions, written from the papers, with which the package is compared."""
