"""Searching by measuring: inherited weights rank genotypes, stand-alone training decides between the best."""
