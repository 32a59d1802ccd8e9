"""A synthetic alpine valley whose lake, snow and vegetation are known exactly."""
