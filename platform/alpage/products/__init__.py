"""Lakes, snow and vegetation: layers and stages, wiring science to the engine."""
