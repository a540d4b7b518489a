"""What binas does, as functions: search, train, evolve, predict, count, check and draw from Python.

Nothing prints; what a run has to say goes to `logging` (loggers `binas.search`, `binas.train`, …), and how
far a loop has come to `progress`. Wherever an object is taken, its name or file is taken too.
"""
