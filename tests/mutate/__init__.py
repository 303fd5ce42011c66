"""Mutation testing: plant one realistic fault at a time, and see whether the tests notice."""
