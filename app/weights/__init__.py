"""The weights: which models there are (`manifest`), what was fetched (`lock`), what lies on the disk (`store`), and the
way to the Hugging Face Hub (`hub`). Nothing here loads a model, and nothing but `hub` touches the network."""
