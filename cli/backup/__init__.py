"""`nordmesh backup`: list the stored snapshots of a cluster, and prove that one can be restored.

snapshots.py: their format and who wrote them. storage.py: where they are. proof.py: what is in one.
"""
