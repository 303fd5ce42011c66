"""The files that nordmesh writes on a node for the layers below Kubernetes.

files/ holds them as templates, at their paths on the node; table.py lists them.
"""
