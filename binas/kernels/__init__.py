"""Fast CPU loops behind the operations; see README.md in this folder for why each is there."""
