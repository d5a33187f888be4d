"""The weights: the known models (`manifest`), what was fetched (`lock`), what is on the disk (`store`), the Hugging
Face Hub (`hub`), and downloads (`fetching`). Nothing here loads a model, and only `hub` uses the network."""
