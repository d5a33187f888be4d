"""TRELLIS image-to-splat inference in plain PyTorch: `pipeline.load(...)`, then `Trellis.run(...)`.

Knows no HTTP, no queue and no files but its weights. Inside, +Z is up; a `Splat` leaves with +Y up.
"""
