"""How any step of training runs: on which device, in which parts, with which optimizer, for an epoch."""
