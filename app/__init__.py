"""Splatgate: a prompt goes in; a judged 3D Gaussian splat, or a refusal that says why, comes out."""

__version__ = "1.0.0"
