"""How much the views look like the picture, if there is no prompt to compare them with."""

from app.metrics.metric import Metric

METRIC = Metric(
    name="likeness",
    label="likeness",
    title="3D render likeness to the given picture",
    load="app.stages.clip:load",
    compute="app.stages.clip:compare_with_picture",
    needs=frozenset({"views", "picture"}),
    unless=frozenset({"prompt"}),
    low=-1.0,
    setting="image_threshold",
)
