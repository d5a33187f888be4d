"""TRELLIS image-to-splat inference in plain PyTorch: `pipeline.load(...)`, then `Trellis.run(...)`.

It knows no HTTP, no queue, and no files except its weights. Inside, +Z is up; the `Splat` it returns has +Y up.
"""
