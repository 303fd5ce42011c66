"""Scalar types of the stack file, a module a kind; each refuses with what, why and the remedy.

What means something in one section alone stands in that section's module of config.
"""
