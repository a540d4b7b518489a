"""Parts that a stage may have: a teacher, terms of the loss, procedures that switch layers on."""
