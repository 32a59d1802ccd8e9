"""Dask clusters on Kubernetes, made by the Dask operator."""
