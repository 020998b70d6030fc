"""Solvers: one file each, and the registry."""
