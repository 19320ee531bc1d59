"""Placeholder until R delivers."""


def changes(old, new):
    return []
