"""From a cube to a gated, immutable, published version."""
