"""Where tasks run: one file per back end."""
