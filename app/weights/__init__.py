"""The weights: which models there are (`manifest`), what was fetched (`lock`), what lies on the disk (`store`), the
Hugging Face Hub (`hub`), and the way from there to here (`fetching`). Nothing here loads a model, and nothing but `hub`
touches the network."""
