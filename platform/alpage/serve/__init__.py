"""HTTP: releases as static files."""
