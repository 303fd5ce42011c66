"""Drift: compare hosts, cluster and mesh with what the stack's program would create.

The expected state comes from a preview of the program: the inputs of objects, and the settings of
the scripts that prepared the nodes. The actual state comes from a refresh that is not saved, and
from a read-only script. Nothing changes on nodes, in the cluster or in the state.
"""
