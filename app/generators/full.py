"""Profile `full`: FLUX, TRELLIS and ViT-L/14."""

from app.generators.generator import Generator

GENERATOR = Generator(
    name="full",
    summary="FLUX + TRELLIS + ViT-L/14; needs a GPU and weights",
    examples=("a small wooden rowing boat", "a red ceramic teapot", "a stone lion"),
    load="app.stages.full:load",
    takes_pictures=True,
    needs_gpu=True,
    models=("image.model", "cutout.model", "trellis.model", "trellis.flows", "trellis.encoder"),
)
