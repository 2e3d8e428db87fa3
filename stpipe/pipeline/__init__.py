"""The stages of each verb, the run directory, and its status."""
