"""Who judges a candidate: a short training, a part of one shared network, or a predictor."""
