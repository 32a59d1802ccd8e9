"""Living datacubes of lakes, snow and vegetation."""
