"""Prefect flows: when, where and whether. What they do is in `serac_core`."""
