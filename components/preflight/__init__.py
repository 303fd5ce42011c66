"""The preflight: what machines are, measured before anything on them is changed.

`measure` asks all nodes at once over SSH, `judge` holds the answers against the stack's limits, and
`report` tells it. `hook` binds it to the first step that changes a node: it runs in an update that
makes a node, and in no other. It changes nothing on any machine.
"""
