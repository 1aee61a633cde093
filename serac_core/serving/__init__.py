"""The router server: a release in use, how it is followed, and the page for people.

`served` (a release in use, and its change for another), `follow` (the registry's stage), `page`.
"""
