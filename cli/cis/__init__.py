"""The items of the CIS benchmark for Kubernetes 1.23, as kube-bench numbers them.

items.yaml has a check or a reason for each item; kube-bench itself is not needed. look.sh reports
the facts of a node. Nothing changes on nodes or in the cluster.
"""
