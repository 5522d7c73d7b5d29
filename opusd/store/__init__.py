"""The registry: what is on disk is the truth."""
