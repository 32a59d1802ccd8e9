"""The versioned Zarr store and its ledger."""
