"""Hydra finds launchers in this namespace."""
