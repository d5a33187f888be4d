"""Trains the models of profile `full` small, on the built-in world. See docs/starter.md."""
