"""Mutation testing: make one realistic change at a time, and check whether the tests fail."""
