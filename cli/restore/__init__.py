"""`nordmesh restore`: rebuild the control planes from a snapshot.

machines.py: what the machines have, and what is refused. programs.py: the scripts of `pulumi up`
that run on them. data.py: what is uploaded. steps.py: the order of the work.

The state says that the control planes exist, and nothing in it tells that a machine is empty. So a
restore does on each of them what `pulumi up` did when it created them, with the same scripts and
the settings of the stack file. After it, the state is right again, and `pulumi up` finds members.
"""
