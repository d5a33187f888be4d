"""How well the views match the prompt."""

from app.metrics.metric import Metric

METRIC = Metric(
    name="clip",
    label="CLIP",
    title="3D Render CLIP score",
    load="app.stages.clip:load",
    compute="app.stages.clip:compare_with_prompt",
    needs=frozenset({"views", "prompt"}),
    low=-1.0,
    setting="threshold",
)
