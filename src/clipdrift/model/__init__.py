"""CLIP models: loading, image towers of any library, traces of attention and states, zero-shot heads."""
