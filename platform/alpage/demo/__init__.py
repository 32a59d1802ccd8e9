"""The demonstration: a valley with known truth, computed and compared."""
