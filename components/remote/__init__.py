"""Scripts on nodes: their command lines, the SSH connections, and how a failure is explained."""
