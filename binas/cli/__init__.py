"""The command line: one file for each command, what they share, and what it says of errors."""
