"""Releases: packaged, judged by the gate, registered as GTO tags, published, rolled back.

`package` and `manifest` (the directory), `gate` and `verdict` (may it be served),
`registry` and `publishing` (versions and assignments), `copies` (ready directories).
"""
