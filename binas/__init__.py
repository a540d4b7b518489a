"""binas: architecture search for binary neural networks, from search space to a checked binary network."""

__version__ = "0.1.0"
