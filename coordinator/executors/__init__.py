"""Where tasks run: one file per back end, and the waiting that they share."""
