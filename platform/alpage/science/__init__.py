"""Arrays in, arrays out: no I/O, no Dask, no Prefect."""
