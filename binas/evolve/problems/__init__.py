"""What an evolution varies: genomes, the networks that they stand for, and what these cost."""
