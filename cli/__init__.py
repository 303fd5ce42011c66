"""The commands that read a stack file."""
