"""Plan, read and run blocks."""
