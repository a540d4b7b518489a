"""One file for each command: what it takes (`add_arguments`), and what it does (`run`)."""
