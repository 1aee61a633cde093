"""SERAC model editing: all that a flow or the command line calls; knows nothing of Prefect."""
