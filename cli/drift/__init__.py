"""Whether hosts, cluster and mesh still are what the stack's program would make of them.

What is expected comes from a preview of the program: the objects' inputs, and the settings of the
scripts that made the nodes. What is there comes from a refresh, which a preview does not keep, and
from a script that only looks. Nothing is changed, on nodes, in the cluster or in the state.
"""
